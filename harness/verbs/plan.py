"""``kdbench plan``: what a run would need, before anything is loaded."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import typer

from kdbench.harness.errors import InputError
from kdbench.harness.verbs import options
from kdbench.reports.text.document import Document, Notes, Paragraph, Section, Table

if TYPE_CHECKING:
    from kdbench.harness.config import RunConfig
    from kdbench.harness.plan.fit import Remedy
    from kdbench.harness.plan.hardware import Machine, Scaling
    from kdbench.harness.plan.planning import Phase, Plan
    from kdbench.harness.plan.work import Work

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Hardware(options.Group):
    """On which cards, and how a run is spread over them."""

    TITLE: ClassVar[str] = "On which cards, and how"

    gpus: Annotated[
        str, typer.Option(help="Cards: 8x80 (of 80 GiB), 8xh100, 1x24; cpu for none.")
    ] = "1x80"
    memory: Annotated[
        float | None, typer.Option(min=1.0, help="GiB of a card, instead of --gpus.")
    ] = None
    devices: Annotated[
        int | None, typer.Option(min=1, help="Number of cards, instead of that in --gpus.")
    ] = None
    price: Annotated[
        float | None, typer.Option(min=0.0, help="Price of a card's hour; adds a cost.")
    ] = None
    shard: Annotated[
        Literal["none", "fsdp2"] | None,
        typer.Option(
            help="The student's state: whole on each card, or shared; default: as configured."
        ),
    ] = None
    shard_teacher: Annotated[
        bool, typer.Option("--shard-teacher", help="The teacher is shared among the cards, too.")
    ] = False
    checkpoint_activations: Annotated[
        bool,
        typer.Option("--checkpoint-activations", help="Layers are computed again in backward."),
    ] = False
    lora: Annotated[
        int, typer.Option(min=0, help="Rank of LoRA adapters in every training; 0: as configured.")
    ] = 0

    def machine(self) -> "Machine":
        """The cards that --gpus, --memory and --devices describe together."""
        from kdbench.harness.plan.hardware import CPU, machine_of, of_memory

        if self.gpus.strip().lower() == "cpu":
            if self.memory is not None or self.devices is not None:
                raise InputError(
                    "--memory and --devices are of cards; leave them out with --gpus cpu"
                )
            return CPU
        found = machine_of(self.gpus)
        if self.memory is not None:
            found = of_memory(self.memory, found.count)
        return found if self.devices is None else replace(found, count=self.devices)

    def scaling(self, config: "RunConfig") -> "Scaling":
        """How the run is spread over them: as configured, changed by these options."""
        from kdbench.harness.plan.hardware import scaling_of

        found = scaling_of(config.parallel)
        return replace(
            found,
            shard=self.shard or found.shard,
            teacher="sharded" if self.shard_teacher else found.teacher,
            checkpoint_activations=self.checkpoint_activations or found.checkpoint_activations,
        )


def plan(
    suite: options.Suite = "mini",
    method: options.MethodName = "fkd",
    rows: Annotated[
        int | None, typer.Option(min=1, help="Training rows, where kdbench does not know them.")
    ] = None,
    *,
    pair: options.Pair,
    hardware: Hardware,
    set_: options.Set = None,
    json_output: options.Json = False,
) -> None:
    """Say what a run needs: memory by part, disk, tokens, FLOPs, hours, cost; and what makes it fit.

    From configurations alone: no weights, no network, no GPU. Calculated, not measured.
    """
    from kdbench.harness.plan.fit import Run, fewest_cards, remedy, with_lora
    from kdbench.harness.plan.planning import facts, models_of
    from kdbench.harness.plan.planning import plan as made_plan

    machine, price = hardware.machine(), hardware.price
    config, work = asked_of(suite, method, set_ or [], pair.settings())
    scaling = hardware.scaling(config)
    config = with_lora(config, hardware.lora) if hardware.lora else config
    models = models_of(config)
    made = made_plan(config, models, work, machine, scaling, rows=rows)
    found, cards = None, None
    if not made.fits:
        run = Run(config, models, work)
        found = remedy([run], machine, scaling, rows=rows)
        cards = fewest_cards(run, machine, rows=rows) if found is None else None
    said = verdict(made, found, cards)
    result = {"suite": config.suite, "method": config.method.name, **facts(made), "verdict": said}
    if price is not None:
        result["cost"] = [hours * price for hours in made.card_hours]
    options.deliver(document(made, config, said, price), result, json_output=json_output)


def asked_of(
    suite: str, method: str, assignments: list[str], flags: dict[str, Any]
) -> "tuple[RunConfig, Work]":
    """The run, and what a step of its method does; our own methods are not imported for it."""
    from kdbench.harness.plan.work import WORKS, work_of
    from kdbench.harness.resolve import outline, resolve

    if method in WORKS:
        config = outline(suite=suite, method=method, assignments=assignments, flags=flags)
        return config, work_of(method, config.method.options)
    from kdbench.harness.registry import find_method

    config = resolve(suite=suite, method=method, assignments=assignments, flags=flags)
    return config, work_of(method, config.method.options, find_method(method).method.card)


def verdict(made: "Plan", found: "Remedy | None", cards: int | None) -> str:
    """Whether it fits, and if not, what would make it fit."""
    if made.machine.cpu:
        return f"needs {gigabytes(made.peak)} GiB of main memory, and what Python and its libraries take"
    where = f"{made.machine.count} × {made.machine.memory_gb:g} GiB"
    if made.fits:
        return f"fits on {where}: {gigabytes(made.peak)} of {gigabytes(made.machine.usable)} usable GiB"
    fullest = max(made.phases, key=lambda phase: phase.peak)
    need = f"{fullest.name} needs {gigabytes(fullest.peak)} GiB a card"
    if fullest.peak <= made.machine.usable:
        need = made.short
    need = f"does not fit on {where}: {need}"
    if found is None:
        more = f"; sharded it fits on {cards} cards" if cards else ""
        return f"{need}, and no change of settings makes it fit{more}"
    other = "" if found.same else f" (another student{found.aside and f'; {found.aside}'})"
    return (
        f"{need}; with {' and '.join(found.settings)} it fits{other}, "
        f"{gigabytes(found.plan.peak)} GiB a card"
    )


def document(made: "Plan", config: "RunConfig", said: str, price: float | None) -> Document:
    """What people read."""
    pair = made.models
    about = (
        f"{pair.teacher.name} ({millions(pair.teacher.parameters)}) → "
        f"{pair.student.name} ({millions(pair.student.parameters)}), method {config.method.name}"
    )
    head = [
        "phase",
        "GiB a card",
        "highest",
        "of that",
        "host GiB",
        "tokens",
        "PFLOP",
        "card hours",
    ]
    head += ["cost"] if price is not None else []
    body = [_row(phase, made, price) for phase in made.phases]
    disk = [[what, gigabytes(size)] for what, size in made.disk.items()]
    low, high = made.card_hours
    notes = [
        "Calculated from configurations, nothing of it measured on a GPU (docs/plan.md says how).",
        *made.notes,
    ]
    if not made.machine.cpu:
        hours = (
            f"{low:,.1f} to {high:,.1f} card hours on {made.machine.count} × {made.machine.name}"
        )
        cost = (
            ""
            if price is None
            else f", {low * price:,.0f} to {high * price:,.0f} at {price:g} an hour"
        )
        notes.insert(0, f"in all {hours}{cost}")
    return Document(
        f"Plan of {config.suite}",
        [
            Section("", [Paragraph(about), Paragraph(said)]),
            Section("Phases", [Table(head, body, right=(1, 4, 6, 7)), Notes(notes)]),
            Section("Disk", [Table(["what", "GiB"], disk, right=(1,))]),
        ],
    )


def _row(phase: "Phase", made: "Plan", price: float | None) -> list[str]:
    spent, count = phase.spent, made.machine.count
    largest = sorted(phase.parts.items(), key=lambda part: -part[1])[:4]
    parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in largest)
    hours = [end * count / 3600 for end in (spent.seconds.fast, spent.seconds.slow)]
    tokens = spent.trained + spent.read + (spent.sampled.fast + spent.sampled.slow) / 2
    row = [phase.name, gigabytes(phase.peak), phase.moment, parts, gigabytes(phase.host)]
    row += [millions(tokens), f"{spent.flops / 1e15:,.0f}"]
    row.append("" if made.machine.cpu else f"{hours[0]:,.1f}–{hours[1]:,.1f}")
    if price is not None:
        row.append("" if made.machine.cpu else f"{hours[0] * price:,.0f}–{hours[1] * price:,.0f}")
    return row


def gigabytes(size: float) -> str:
    """GiB, to three digits."""
    found = size / GIB
    return f"{found:,.0f}" if found >= 100 else f"{found:.1f}" if found >= 1 else f"{found:.2f}"


def millions(count: float) -> str:
    """124M, 6.7B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"
