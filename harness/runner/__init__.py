"""The verbs that make runs: each is a short list of stages that meet only through files."""

from kdbench.harness.runner.commands import eval_command, run_command, train_command
from kdbench.harness.runner.score import score_command

__all__ = ["eval_command", "run_command", "score_command", "train_command"]
