"""summary.json and manifest.json of a run folder, rebuilt from what lies in it."""

import sys
from pathlib import Path
from typing import Any

from kdbench.harness.files.records import (
    Manifest,
    ModelRef,
    PrepareRecord,
    RunCard,
    StageCost,
    Summary,
)
from kdbench.harness.files.store import read_marker, read_record, write_json
from kdbench.harness.provenance import code_state, hardware, versions
from kdbench.harness.runner.evaluation import summarised
from kdbench.harness.runner.probing import probes_below
from kdbench.harness.runner.session import Session
from kdbench.harness.runner.student_card import write_student_card
from kdbench.reports.text.signature import joined


def write_summary(session: Session, folder: Path, card: RunCard, learned: dict[str, float]) -> bool:
    """summary.json: adds this command's costs to those booked before.

    Returns whether there was anything to add: what other commands measured is left as they wrote it.
    """
    path = folder / "summary.json"
    before = read_record(path, Summary) if path.is_file() else None
    scores, probes = summarised(folder), probes_below(folder)
    said = (before.scores, before.probes) if before else None
    if said == (scores, probes) and not (session.costs or learned):
        return False
    cost = dict(before.cost) if before else {}
    for stage, new in session.costs.items():
        cost[stage] = add_cost(cost.get(stage), new)
    cost |= generated(folder, cost.get("generate"))
    write_json(
        path,
        Summary(
            run=card,
            scores=scores,
            probes=probes,
            judge=before.judge if before else {},
            cost=cost,
            learned=learned or (before.learned if before else {}),
            signature=signature(session, card),
        ),
    )
    session.costs.clear()
    write_student_card(folder)
    return True


def rescored(folder: Path) -> None:
    """The same summary with scores read again."""
    path = folder / "summary.json"
    if path.is_file():
        summary = read_record(path, Summary)
        renewed = {"scores": summarised(folder), "probes": probes_below(folder)}
        write_json(path, summary.model_copy(update=renewed))
        write_student_card(folder)


def generated(folder: Path, booked: StageCost | None) -> dict[str, StageCost]:
    """What all samples of a run folder cost, by their markers: a killed command booked nothing."""
    markers = [read_marker(out, "generate") for out in sorted((folder / "eval").glob("*@*"))]
    found = [marker.info for marker in markers if marker]
    if not found:
        return {}
    return {
        "generate": StageCost(
            wall_s=sum(info["wall_s"] for info in found),
            tokens={"sampled": sum(info["sampled"] for info in found)},
            peak_mb=booked.peak_mb if booked else 0.0,
        )
    }


def add_cost(before: StageCost | None, new: StageCost) -> StageCost:
    """Costs of two commands that did parts of one stage."""
    if before is None:
        return new
    tokens = {k: before.tokens.get(k, 0) + new.tokens.get(k, 0) for k in before.tokens | new.tokens}
    return StageCost(
        wall_s=before.wall_s + new.wall_s,
        tokens=tokens,
        peak_mb=max(before.peak_mb, new.peak_mb),
    )


def signature(session: Session, card: RunCard) -> str:
    """What a reader needs to know to compare: versions, suite, protocol, decoding, seeds."""
    config = session.config
    drawn = config.generate
    return joined(
        {
            "kdbench": versions().get("kdbench", "?"),
            "suite": config.suite,
            "regime": config.regime,
            "protocol": config.tasks.protocol,
            "decoding": f"T {drawn.temperature:g}, p {drawn.top_p:g}, k {drawn.top_k}",
            "decoding seeds": ",".join(map(str, drawn.seeds)),
            "training seed": "" if card.training_seed is None else str(card.training_seed),
            "precision": config.train.precision,
        }
    )


def write_manifest(
    session: Session,
    folder: Path,
    *,
    prepared: PrepareRecord | None,
    generation: dict[str, Any],
    extra: dict[str, Any],
    drift: list[str],
) -> None:
    """manifest.json, the last file of a run."""
    code = code_state()
    summary = read_record(folder / "summary.json", Summary)
    config = session.config
    write_json(
        folder / "manifest.json",
        Manifest(
            kdbench=versions().get("kdbench", "?"),
            git_commit=code.commit,
            git_diff_sha256=code.diff_sha256 if code.diff else None,
            argv=list(session.request.argv or sys.argv),
            config=config.model_dump(mode="json"),
            versions=versions(),
            hardware=hardware(str(session.device)),
            data=prepared.data if prepared else {},
            tokenizer_sha256=prepared.tokenizer_sha256 if prepared else "",
            teacher=prepared.teacher if prepared else None,
            init=prepared.init if prepared else None,
            generation=generation,
            seeds={
                "training": config.train.seed,
                "init": config.train.init_seed,
                "decoding": list(config.generate.seeds),
            },
            cost=summary.cost,
            extra=extra,
            drift=drift,
        ),
    )
    write_student_card(folder)  # it quotes the command


def reference_card(
    session: Session, label: str, identifier: str, model: ModelRef | None, teacher: ModelRef | None
) -> RunCard:
    """The card of an evaluated model that no method of this board trained."""
    return RunCard(
        id=identifier,
        kind="eval",
        method=label,
        suite=session.config.suite,
        regime=session.config.regime,
        teacher=teacher,
        student=model,
        training_seed=None,
        division="reference",
    )
