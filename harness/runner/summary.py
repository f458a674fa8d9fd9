"""summary.json, manifest.json and the student's README.md, rebuilt from what lies in a run folder."""

import sys
from typing import Any

from kdbench.harness.config import RunConfig
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.scoring import summarised
from kdbench.harness.files.records import (
    Manifest,
    MethodFacts,
    PrepareRecord,
    RunCard,
    StageCost,
    Summary,
)
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.store import write_text
from kdbench.harness.provenance import code_state, hardware, versions
from kdbench.harness.registry import recorded_method
from kdbench.harness.session import Session, total
from kdbench.reports.run.model_card import model_card
from kdbench.reports.text.style import joined
from kdbench.trainers.method import Card


def write_summary(
    session: Session, run: RunFolder, card: RunCard, learned: dict[str, float]
) -> bool:
    """summary.json: adds this command's costs to those booked before.

    Returns whether there was anything to add: what other commands measured is left as they wrote it.
    """
    before = run.summary.find()
    scores, probes = summarised(run), measured(run)
    said = (before.scores, before.probes) if before else None
    if said == (scores, probes) and not (session.costs or learned):
        return False
    cost = dict(before.cost) if before else {}
    for stage, new in session.costs.items():
        cost[stage] = total(cost.get(stage), new)
    cost |= generated(run, cost.get("generate"))
    run.summary.write(
        Summary(
            run=card,
            scores=scores,
            probes=probes,
            judge=before.judge if before else {},
            cost=cost,
            learned=learned or (before.learned if before else {}),
            signature=signature(session.config, card),
        )
    )
    session.costs.clear()
    write_student_card(run)
    return True


def rescored(run: RunFolder) -> None:
    """The same summary with scores read again."""
    summary = run.summary.find()
    if summary is not None:
        renewed = {"scores": summarised(run), "probes": measured(run)}
        run.summary.write(summary.model_copy(update=renewed))
        write_student_card(run)


def measured(run: RunFolder) -> dict[str, Any]:
    """What probes found of every evaluation of a run, by key."""
    found = {evaluation.key: evaluation.probes() for evaluation in run.evaluations()}
    return {key: probes for key, probes in found.items() if probes}


def generated(run: RunFolder, booked: StageCost | None) -> dict[str, StageCost]:
    """What all samples of a run cost, by their markers: a killed command booked nothing."""
    found = [info for e in run.evaluations() if (info := e.generated.info())]
    if not found:
        return {}
    return {
        "generate": StageCost(
            wall_s=sum(info["wall_s"] for info in found),
            tokens={"sampled": sum(info["sampled"] for info in found)},
            peak_mb=booked.peak_mb if booked else 0.0,
        )
    }


def signature(config: RunConfig, card: RunCard) -> str:
    """What a reader needs to know to compare: versions, suite, protocol, decoding, seeds."""
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
    run: RunFolder,
    *,
    prepared: PrepareRecord,
    generation: dict[str, Any],
    extra: dict[str, Any],
    drift: list[str],
) -> None:
    """manifest.json, the last file of a run."""
    code = code_state()
    config = session.config
    run.manifest.write(
        Manifest(
            kdbench=versions().get("kdbench", "?"),
            git_commit=code.commit,
            git_diff_sha256=code.diff_sha256 if code.diff else None,
            argv=list(session.request.argv or sys.argv),
            config=config.model_dump(mode="json"),
            versions=versions(),
            hardware=hardware(str(session.device)),
            **prepared.model_dump(include={"data", "tokenizer_sha256", "teacher", "init"}),
            generation=generation,
            seeds={
                "training": config.train.seed,
                "init": config.train.init_seed,
                "decoding": list(config.generate.seeds),
            },
            cost=run.summary.read().cost,
            extra=extra,
            drift=drift,
        )
    )
    write_student_card(run)  # it quotes the command


def write_student_card(run: RunFolder) -> None:
    """Writes the model card of a run's student; a folder without a trained one is left alone.

    The card is no part of what identifies a model: weights, configuration and tokenizer stay as
    they are, and so do the fingerprint and the stage marker.
    """
    prepared, summary = run.prepare.find(), run.summary.find()
    if prepared is None or summary is None or not run.training.stage.done():
        return
    config = run.config.read().tree()
    method = config["method"]
    facts = prepared.method or _facts(method["name"], method.get("fingerprint", ""))
    text = model_card(facts, summary, config, prepared, run.manifest.find())
    write_text(run.training.student / "README.md", text)


def _facts(name: str, fingerprint: str) -> MethodFacts:
    """Of a run that an earlier kdbench made, which did not keep them."""
    try:
        return method_facts(name, recorded_method(name, fingerprint).method.card)
    except InputError:  # a third party's, trained elsewhere and not installed here
        return MethodFacts(name=name, title=name, paper="method not installed here", variant="")


def method_facts(name: str, card: Card) -> MethodFacts:
    """What a run keeps of a method's card."""
    return MethodFacts(name=name, title=card.title, paper=card.paper, variant=card.variant)
