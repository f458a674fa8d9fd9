"""Writes docs/plan.md: ``python docs/make_plan.py``.

The table of fit is made by the arithmetic of ``kdbench plan``; docs/plan-measured.json is the last line that
``benchmarks/plan.py --json`` printed, docs/plan-measured-returned.json the same with
``MALLOC_MMAP_THRESHOLD_=262144``.
"""

import json
from pathlib import Path
from typing import Any

from kdbench.harness.files.shipped import SUITES
from kdbench.harness.plan.fit import Run, remedy
from kdbench.harness.plan.hardware import machine_of, scaling_of
from kdbench.harness.plan.planning import models_of, plan
from kdbench.harness.plan.work import WORKS, work_of
from kdbench.harness.resolve import OWN, outline
from kdbench.harness.verbs.plan import gigabytes, millions

HERE = Path(__file__).resolve().parent
MACHINES = ("1x80", "8x80", "16x80")
Measured = dict[str, Any]


def cases(suite: str) -> dict[str, Run]:
    """Every method of ours in a suite."""
    found = {}
    for method in WORKS:
        config = outline(suite=suite, method=method)
        found[method] = Run(config, models_of(config), work_of(method, config.method.options))
    return found


def cell(runs: dict[str, Run], gpus: str) -> str:
    """What the neediest method takes, as it is or with the fewest changes."""
    machine = machine_of(gpus)
    spread = scaling_of(next(iter(runs.values())).config.parallel)
    made = {name: plan(*run, machine, spread) for name, run in runs.items()}
    neediest = max(made, key=lambda name: made[name].peak)
    need = gigabytes(made[neediest].peak)
    if all(each.fits for each in made.values()):
        return f"fits, {need}"
    phase = max(made[neediest].phases, key=lambda each: each.peak).name
    found, never = remedy(list(runs.values()), machine, spread), ""
    if found is None:  # some methods cannot be made to fit: what of the others?
        able = [name for name in runs if remedy([runs[name]], machine, spread) is not None]
        found = remedy([runs[name] for name in able], machine, spread) if able else None
        if found is None:
            return f"{need} ({phase}); cannot be run"
        never = f"; not {', '.join(name for name in runs if name not in able)}"
    other = (
        "" if found.same else f", which makes another student{found.aside and f' ({found.aside})'}"
    )
    settings = ", ".join(f"`{setting}`" for setting in found.settings)
    return f"{need} ({phase}); {gigabytes(found.plan.peak)} with {settings}{other}{never}"


def table_of_fit() -> list[str]:
    """One row a suite."""
    head = " | ".join(f"{gpus.replace('x', ' × ')} GB" for gpus in MACHINES)
    lines = [f"| suite | teacher → student | {head} |", "|---|---|" + "---|" * len(MACHINES)]
    for suite in SUITES.names():
        if suite == OWN:  # it has no pair
            continue
        runs = cases(suite)
        pair = next(iter(runs.values())).models
        sizes = " → ".join(millions(model.parameters) for model in pair)
        cells = " | ".join(cell(runs, gpus) for gpus in MACHINES)
        lines.append(f"| `{suite}` | {sizes} | {cells} |")
    return lines


def table_of_ratios(plain: list[Measured], returned: list[Measured]) -> list[str]:
    """Planned over measured on a CPU, with the allocator as it is and with one that returns memory."""
    head = ("training", "steps: planned", "measured", "ratio", "returned", "ratio")
    more = ("with checkpoint: planned", "measured", "ratio", "returned", "ratio")
    lines = ["| " + " | ".join((*head, *more)) + " |", "|---|" + "---:|" * 10]
    again = {each["cell"]: each for each in returned}
    for each in plain:
        cells = [f"`{each['cell']}`"]
        for what in ("steps", "whole"):
            planned = each["planned"][what]
            cells.append(f"{planned:,.0f}")
            for found in (each, again.get(each["cell"])):
                got = found["measured"][what] if found else float("nan")
                cells += [f"{got:,.0f}", f"{planned / got:.2f}"] if found else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def page() -> str:
    """The whole page."""
    notes = (HERE / "plan-notes.md").read_text(encoding="utf-8")
    measured = (
        json.loads((HERE / f"plan-{name}.json").read_text(encoding="utf-8"))
        for name in ("measured", "measured-returned")
    )
    return notes.replace("TABLE OF FIT", "\n".join(table_of_fit())).replace(
        "TABLE OF RATIOS", "\n".join(table_of_ratios(*measured))
    )


if __name__ == "__main__":
    (HERE / "plan.md").write_text(page(), encoding="utf-8")
