"""``kdbench run`` and ``kdbench train``: a method, from its pair to its table or its student."""

import typer

from kdbench.harness.verbs import options


def run(
    *,
    method: options.MethodName,
    suite: options.Suite = "mini",
    asked: options.Asked,
    pair: options.Pair,
    set_: options.Set = None,
    work: options.Workplace,
) -> None:
    """Train a student by a method, evaluate it and its references, and print the comparison.

    The same command continues a run that was interrupted.
    """
    options.calm_libraries()
    from kdbench.harness.resolve import resolve
    from kdbench.harness.runner import run_command

    flags = asked.settings() | pair.settings()
    config = resolve(suite=suite, method=method, assignments=set_ or (), flags=flags)
    raise typer.Exit(run_command(work.request(config)))


def train(
    *,
    method: options.MethodName,
    suite: options.Suite = "mini",
    pair: options.Pair,
    set_: options.Set = None,
    work: options.Workplace,
) -> None:
    """Train a student without evaluating it; ``run`` with the same settings goes on from there."""
    options.calm_libraries()
    from kdbench.harness.resolve import resolve
    from kdbench.harness.runner import train_command

    flags = pair.settings()
    config = resolve(suite=suite, method=method, assignments=set_ or (), flags=flags)
    raise typer.Exit(train_command(work.request(config)))
