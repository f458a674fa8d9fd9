"""The ``kdbench`` command: verbs, one-sentence errors and exit codes.

0 done, 1 some cell failed, 2 usage or input error, 3 a check failed, 130 interrupted by Ctrl-C, 143 ended by
SIGTERM; these two stop alike, and print the command that goes on. A user's mistake is one sentence on
standard error; a bug keeps its traceback. What lay below a sentence (the error of a library, of somebody's
method) is printed with ``--debug``, anywhere on the line, and where a run was being written it is in that
run's ``run.log``.
"""

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import typer
import typer.main

from kdbench.harness import launch
from kdbench.harness.errors import KdbenchError, is_out_of_memory
from kdbench.harness.printing import guarded, printable
from kdbench.harness.shorthand import answer, expanded
from kdbench.harness.stopping import stoppable
from kdbench.harness.verbs.capture import capture
from kdbench.harness.verbs.clean import clean
from kdbench.harness.verbs.conform import conform
from kdbench.harness.verbs.distill import distill
from kdbench.harness.verbs.doctor import doctor
from kdbench.harness.verbs.evaluate import evaluate, score
from kdbench.harness.verbs.helps import Verb, Verbs
from kdbench.harness.verbs.judge import judge
from kdbench.harness.verbs.ls import ls
from kdbench.harness.verbs.new_method import new_method
from kdbench.harness.verbs.options import grouped
from kdbench.harness.verbs.plan import plan
from kdbench.harness.verbs.reports import (
    bundle,
    check,
    claims,
    compare,
    leaderboard,
    ledger,
    report,
)
from kdbench.harness.verbs.run import ablate, run, train, tune
from kdbench.harness.verbs.show import show
from kdbench.harness.verbs.watch import watch

INTERRUPTED = 130
TERMINATED = 143
DEBUG = "--debug"
LONGEST = 1200
"""Characters of a sentence."""

app = typer.Typer(
    name="kdbench",
    cls=Verbs,
    help="Train students by knowledge distillation, score them, and compare them honestly.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # drawing help with rich doubles the time it takes
    context_settings={"help_option_names": ["-h", "--help"]},
)
VERBS = {
    "Make runs": (distill, run, train, evaluate, ablate, tune, capture),
    "Score stored answers": (score, judge),
    "Read runs": (leaderboard, compare, show, report, check, claims, ledger, bundle),
    "Look after runs": (ls, watch, clean),
    "Methods and this machine": (new_method, conform, doctor, plan),
}
"""By what they are for, as help lists them."""
for title, verbs in VERBS.items():
    for verb in verbs:
        named = "eval" if verb is evaluate else None
        app.command(named, cls=Verb, rich_help_panel=title)(grouped(verb))


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version."),
    debug: bool = typer.Option(False, DEBUG, help="Print what lies below an error's sentence."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"kdbench {installed('kdbench')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line and exits with its code.

    Args:
        arguments: without the program's name; None: those of the process.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    with guarded(), stoppable() as terminated:
        code = _run(argv, terminated)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Ends this process; of several, one that failed at once.

    Others may wait inside a collective, and NCCL, asked to part from them at exit, would wait for them: no
    launcher would see that anything ended.
    """
    distributed = sys.modules.get("torch.distributed")
    if code and distributed is not None and distributed.is_initialized():
        os._exit(code)
    sys.exit(code)


SMALLER = (
    "lower train.micro_tokens or generate.batch_size, share the models among several GPUs "
    "(parallel.shard=fsdp2), or train adapters (train.lora); kdbench plan says what a run needs"
)
"""What to do when a GPU's memory is full."""


def _run(argv: list[str], terminated: Sequence[int] = ()) -> int:
    debug = DEBUG in argv
    argv = [word for word in argv if word != DEBUG]
    try:
        said = expanded(argv)
        answer(said, _options_by_verb())
        code = int(app(args=said, prog_name="kdbench", standalone_mode=False) or 0)
    except KdbenchError as error:
        if debug:
            traceback.print_exception(error)
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:  # usage: an unknown flag, a missing or malformed value
        message = " ".join(error.format_message().split())
        return _fail(message[:1].lower() + message[1:], 2)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:  # a bug: printed here, where what it quotes is filtered
        if is_out_of_memory(error) and not debug:
            return _fail(f"{' '.join(str(error).split())[:200]}; {SMALLER}", 1)
        traceback.print_exception(error)
        return 1
    if code == INTERRUPTED:  # typer turns Ctrl-C inside a verb into this code
        how, code = ("terminated", TERMINATED) if terminated else ("interrupted", code)
        print(f"\n{how}; continue with: {shlex.join(['kdbench', *argv])}", file=sys.stderr)
    return code


def _options_by_verb() -> dict[str, set[str]]:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {n: {o for p in c.params for o in p.opts} for n, c in commands.items()}


def _fail(message: str, code: int) -> int:
    said = printable(message).rstrip(".")
    if len(said) > LONGEST:  # what it quotes has no end: its middle is left out, not what to do
        said = f"{said[: LONGEST // 2]} … {said[-LONGEST // 2 :]}"
    launch.wait_for_the_first()
    whose = "" if launch.speaks() else f" (process {launch.rank()})"
    print(f"kdbench{whose}: {said}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
