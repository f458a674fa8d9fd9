"""What a run cost, from its markers and nothing else: the one owner of its accounting.

Every stage says in its marker what it took, so that a run that was killed anywhere and continued costs
what an uninterrupted one does:

* tokens are counted from what is stored (answers, checkpointed counters): equal to the last one;
* seconds are those of all processes that worked on a stage, kept beside its parts until it is done: at
  least the sum of what was spent up to the last part stored. What a kill makes a process do again is
  counted again;
* memory is the largest peak of those processes.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdbench.harness.files.inside import inside
from kdbench.harness.files.records import StageCost
from kdbench.harness.files.run_folder import Evaluation, RunFolder
from kdbench.harness.files.stages import Stage
from kdbench.harness.files.store import append_rows, read_records, validated

ENDING = ".spent.jsonl"


class Spent:
    """Seconds and memory of a stage that several processes may work on, one after the other.

    Args:
        stage: whose; its marker gets :meth:`info`.
        peak_mb: gives the peak of this process so far.
    """

    def __init__(self, stage: Stage, peak_mb: Callable[[], float] = float) -> None:
        self._path = _ledger(stage)
        self._peak_mb = peak_mb
        self._began = time.perf_counter()

    def lap(self) -> None:
        """Stores what this process has spent since the last lap; called after a part is stored."""
        append_rows(self._path, [self._since()])

    def info(self) -> dict[str, Any]:
        """What the stage took, by all processes: ``wall_s`` and ``peak_mb``."""
        rows = [*read_records(self._path, StageCost), self._since()]
        wall_s = sum(row.wall_s for row in rows)
        return {"wall_s": wall_s, "peak_mb": max(row.peak_mb for row in rows)}

    def _since(self) -> StageCost:
        now = time.perf_counter()
        spent, self._began = now - self._began, now
        return StageCost(wall_s=spent, peak_mb=self._peak_mb())


def settle(stage: Stage) -> None:
    """Takes away what only a stage's marker was computed from, once that stands."""
    if stage.marker() is not None:
        _ledger(stage).unlink(missing_ok=True)


def _ledger(stage: Stage) -> Path:
    return inside(stage.folder, f"{stage.name}{ENDING}")


def costs_of(run: RunFolder) -> dict[str, StageCost]:
    """What every finished stage of a run cost, those of all its evaluations added up."""
    found: dict[str, StageCost] = {}
    if info := run.training.stage.info():
        found["train"] = _cost(info, info.get("tokens", {}))
    for evaluation in run.evaluations():
        for stage, cost in _of_evaluation(evaluation).items():
            found[stage] = _total(found.get(stage), cost)
    order = {"train": 0, "generate": 1, "choices": 2}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], 3), item[0])))


def _of_evaluation(evaluation: Evaluation) -> dict[str, StageCost]:
    found = {}
    if info := evaluation.generated.info():
        found["generate"] = _cost(info, {"sampled": info.get("sampled", 0)})
    if "wall_s" in (info := evaluation.scored.info()):  # likelihoods are read while they are scored
        found["choices"] = _cost(info, {})
    for name in evaluation.probes():
        info = evaluation.probe(name).info()
        if "wall_s" in info:
            found[f"probe-{name}"] = _cost(info, info.get("tokens", {}))
    return found


def _cost(info: dict[str, Any], tokens: dict[str, int]) -> StageCost:
    # a marker of another hand need not say what its stage cost
    said = {"wall_s": 0.0, "peak_mb": 0.0, "planned_mb": 0.0, **info, "tokens": tokens}
    fields = {name: said[name] for name in StageCost.model_fields}
    return validated(StageCost, fields, "what a stage's marker says of its cost")


def _total(before: StageCost | None, more: StageCost) -> StageCost:
    if before is None:
        return more
    tokens = before.tokens | {k: before.tokens.get(k, 0) + n for k, n in more.tokens.items()}
    peak = max(before.peak_mb, more.peak_mb)
    planned = max(before.planned_mb, more.planned_mb)
    wall_s = before.wall_s + more.wall_s
    return StageCost(wall_s=wall_s, tokens=tokens, peak_mb=peak, planned_mb=planned)
