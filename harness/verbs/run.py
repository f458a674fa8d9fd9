"""``kdbench run``, ``train``, ``ablate`` and ``tune``: a method, or many runs, to student or table."""

import json
import shlex
from typing import Annotated

import typer

from kdbench.harness.verbs import options


def run(
    *,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="A name (kdbench ls methods) or a .py file; several, comma-separated, one after the other.",
        ),
    ],
    suite: options.Suite = "mini",
    asked: options.Asked,
    pair: options.Pair,
    set_: options.Set = None,
    track: options.Track = None,
    work: options.Workplace,
) -> None:
    """Train a student by a method, evaluate it and its references, and print the comparison.

    Several methods end in one table. The same command continues a run that was interrupted.
    """
    options.calm_libraries()
    from kdbench.harness.api.running import run_request
    from kdbench.harness.errors import CellFailed
    from kdbench.harness.resolve import resolve

    flags = asked.settings() | pair.settings()
    names = options.name_list(method, "--method") or []
    # all are checked before the first is trained
    configs = [
        resolve(
            suite=suite,
            method=name,
            assignments=set_ or (),
            flags=flags,
            data_dir=work.data_dir,
        )
        for name in names
    ]
    made, failed = [], []
    for config in configs:
        try:
            made.append(run_request(work.request(config, track=track)))
        except CellFailed as error:
            if len(configs) == 1:
                raise
            failed.append(f"{config.method.name}: {error}")
    if made:
        options.say_made(made, work)
    if failed:
        raise CellFailed("; ".join(failed))


def train(
    *,
    method: options.MethodName,
    suite: options.Suite = "mini",
    pair: options.Pair,
    set_: options.Set = None,
    track: options.Track = None,
    work: options.Workplace,
) -> None:
    """Train a student without evaluating it; ``run`` with the same settings goes on from there."""
    options.calm_libraries()
    from kdbench.harness.api.running import train_request
    from kdbench.harness.resolve import resolve

    flags = pair.settings()
    config = resolve(
        suite=suite,
        method=method,
        assignments=set_ or (),
        flags=flags,
        data_dir=work.data_dir,
    )
    made = train_request(work.request(config, track=track))
    if made.is_main and work.json_output:
        typer.echo(json.dumps({"run": str(made.path), "student": str(made.student)}))
    elif made.is_main:
        typer.echo(f"student: {made.student}")
        typer.echo(f"next: kdbench eval {shlex.quote(str(made.path))} --tasks dolly,selfinst")


def ablate(
    *,
    study: Annotated[str, typer.Argument(help="A name (kdbench ls studies) or a YAML file.")],
    suite: Annotated[str | None, typer.Option(help="Suite instead of the study's.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Training seeds, comma-separated; default: the study's.")
    ] = None,
    tasks: Annotated[str | None, options.TASKS] = None,
    making: options.Making,
    work: options.Workplace,
) -> None:
    """Run a study: train what is missing, compare every row with the base.

    The same command continues a study that was interrupted; finished runs are never repeated.
    """
    options.calm_libraries()
    from kdbench.harness.study.command import ablate_command

    changes = {
        "suite": suite,
        "seeds": options.number_list(seeds, "--seeds"),
        "tasks": options.name_list(tasks, "--tasks"),
    }
    request = making.request(study, work, changes)
    raise typer.Exit(ablate_command(request, dry_run=making.dry_run))


def tune(
    *,
    methods: Annotated[
        str, typer.Option("--methods", "--method", help="Methods, comma-separated; or all.")
    ],
    suite: options.Suite = "mini",
    trials: Annotated[
        str,
        typer.Option(
            help="Settings tried for each method, the suite's own included, and the share of the "
            "budget that each has."
        ),
    ] = "8:0.25",
    seeds: Annotated[
        str, typer.Option(help="Training seeds of the winners, comma-separated.")
    ] = "10,20,30,40,50",
    making: options.Making,
    work: options.Workplace,
) -> None:
    """Search each method's settings by equal rules, train the best under every seed, compare them.

    Every method gets as many trials of the same budget, judged on the development set. The same
    command continues one that was interrupted; nothing is repeated.
    """
    options.calm_libraries()
    from kdbench.harness.registry import method_names
    from kdbench.harness.study.tune import TuneRequest, trials_and_share, tune_command

    count, share = trials_and_share(trials)
    wanted = method_names() if methods == "all" else options.name_list(methods, "--methods")
    request = TuneRequest(
        making=making.request("tune", work, {}),
        methods=tuple(wanted or ()),
        suite=suite,
        trials=count,
        share=share,
        seeds=tuple(options.number_list(seeds, "--seeds") or ()),
    )
    raise typer.Exit(tune_command(request, dry_run=making.dry_run))
