"""``kdbench judge``: a language model's opinion of stored answers."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from kdbench.harness.verbs import options


@dataclass(frozen=True, kw_only=True)
class Judged(options.Group):
    """Which answers are judged, and what may be asked; fields of a `JudgeRequest`."""

    against: Annotated[
        Path | None, typer.Option(help="Pairwise: run to compare with; default: the references.")
    ] = None
    tasks: Annotated[
        str | None, typer.Option(help="Tasks by name, comma-separated; default: all.")
    ] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Judge the first N prompts only.")] = None
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say how many calls, tokens and what cost; ask nothing."),
    ] = False
    max_cost: Annotated[
        float | None,
        typer.Option(min=0, help="Stop before this much is spent on these runs in all."),
    ] = None
    retry: Annotated[
        str | None,
        typer.Option(help="States to ask again: error, refused, truncated, unparsed, or all."),
    ] = None
    replay: Annotated[
        Path | None, typer.Option(help="Answer from a recorded ledger or folder; no network.")
    ] = None


def judge(
    *,
    judge_: Annotated[
        str,
        typer.Option(
            "--judge",
            help="pointwise, pointwise-reference (facts that only your data know), pointwise-vllm, "
            "pairwise, pairwise-json, or a YAML file.",
        ),
    ] = "pointwise",
    judge_model: Annotated[
        str | None, typer.Option(help="Model to ask instead of the judge's own.")
    ] = None,
    judge_base_url: Annotated[
        str | None, typer.Option(help="Any OpenAI-compatible endpoint, as http://host:8000/v1.")
    ] = None,
    judge_key_env: Annotated[
        str | None, typer.Option(help="Environment variable of the key; default OPENAI_API_KEY.")
    ] = None,
    judged: Judged,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the judge; repeatable."),
    ] = None,
    runs: options.Runs,
    quiet: options.Quiet = False,
) -> None:
    """Ask a language model how good stored answers are (GPT-4 feedback)."""
    from kdbench.harness.judge.command import STATES, JudgeRequest, judge_command
    from kdbench.harness.judge.definition import load_judge

    flags = {"model": judge_model, "base_url": judge_base_url, "key_env": judge_key_env}
    states = options.name_list(judged.retry, "--retry") or []
    asked = asdict(judged) | {
        "tasks": options.name_list(judged.tasks, "--tasks"),
        "retry": frozenset(STATES if states == ["all"] else states),
        "json_output": runs.json_output,
        "quiet": quiet,
    }
    request = JudgeRequest(runs.places, load_judge(judge_, set_ or [], flags), **asked)
    raise typer.Exit(judge_command(request))
