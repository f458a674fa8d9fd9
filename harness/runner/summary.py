"""summary.json, manifest.json and the student's README.md, rebuilt from what lies in a run folder."""

import sys
from typing import TYPE_CHECKING, Any

from kdbench.harness.config import RunConfig, unstated
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.scoring import summarised
from kdbench.harness.files.costs import costs_of
from kdbench.harness.files.inside import inside
from kdbench.harness.files.records import (
    Manifest,
    MethodFacts,
    PrepareRecord,
    RunCard,
    Summary,
)
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.store import Say, write_text
from kdbench.harness.method_text import objective
from kdbench.harness.provenance import code_state, hardware
from kdbench.harness.registry import recorded_method
from kdbench.harness.versions import versions
from kdbench.reports.run.model_card import model_card
from kdbench.reports.text.style import joined

if TYPE_CHECKING:  # they bring torch, and a summary is made again without it
    from kdbench.harness.session import Session
    from kdbench.trainers.method import Method


def write_summary(
    session: "Session", run: RunFolder, card: RunCard, learned: dict[str, float]
) -> bool:
    """summary.json.

    Returns whether there was anything to add: what other commands measured is left as they wrote it.
    """
    mend(run, session.progress.say)
    before = run.summary.find()
    scores, probes, cost = summarised(run), measured(run), costs_of(run)
    said = (before.scores, before.probes, before.cost) if before else None
    if said == (scores, probes, cost) and not learned:
        write_student_card(run)  # a kill may have come between the summary and it
        return False
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
    write_student_card(run)
    return True


def mend(run: RunFolder, say: Say) -> None:
    """Makes a damaged summary again from what else lies in the folder; a sound one is left alone.

    The numbers of judges are not in it: their answers are kept, and ``kdbench judge`` asks none twice.

    Raises:
        Damaged: there is no manifest to make it of.
    """
    if not run.summary.exists() or run.summary.sound(say):
        return
    manifest = run.manifest.find()
    if manifest is None or manifest.run is None:
        run.summary.read()  # says what is wrong with it
        return
    run.summary.write(
        Summary(
            run=manifest.run,
            scores=summarised(run),
            probes=measured(run),
            cost=costs_of(run),
            learned=manifest.learned,
            signature=signature(RunConfig.model_validate(manifest.config), manifest.run),
        )
    )
    if any(evaluation.judges() for evaluation in run.evaluations()):
        say(f"note: add its judges with: kdbench judge {run.path} (no question is asked twice)")


def restate(run: RunFolder, config: RunConfig, *, given: bool) -> None:
    """Has a finished run say how its settings were found, where a search has found them again.

    The student is the same, since how a setting was found decides nothing; a search's word counts more
    than that of a suite, and one that the command gives more than one that the run has.
    """
    stored, found = run.summary.read(), run.config.read()
    if config.tuning is None or not unstated(found.tree(), config, given=given):
        return
    tuning = config.tuning.model_dump(mode="json")
    card = stored.run.model_copy(update={"tuning": config.tuned})
    manifest = run.manifest.read()
    tree = manifest.config | {"tuning": tuning}
    run.manifest.write(manifest.model_copy(update={"config": tree, "run": card}))
    run.summary.write(stored.model_copy(update={"run": card}))
    run.config.write(type(found).model_validate(found.tree() | {"tuning": tuning}))


def rescored(run: RunFolder, say: Say) -> None:
    """The same summary with scores and costs read again."""
    mend(run, say)
    summary = run.summary.find()
    if summary is not None:
        renewed = {"scores": summarised(run), "probes": measured(run), "cost": costs_of(run)}
        run.summary.write(summary.model_copy(update=renewed))
        write_student_card(run)


def measured(run: RunFolder) -> dict[str, Any]:
    """What probes found of every evaluation of a run, by key."""
    found = {evaluation.key: evaluation.probes() for evaluation in run.evaluations()}
    return {key: probes for key, probes in found.items() if probes}


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
    session: "Session",
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
    summary = run.summary.read()
    run.manifest.write(
        Manifest(
            kdbench=versions().get("kdbench", "?"),
            git_commit=code.commit,
            git_diff_sha256=code.diff_sha256 if code.diff else None,
            argv=list(session.request.argv or sys.argv),
            config=config.model_dump(mode="json"),
            versions=versions(),
            hardware={**hardware(str(session.device)), "processes": session.place[1]},
            **prepared.model_dump(include={"data", "tokenizer_sha256", "teacher", "init"}),
            generation=generation,
            seeds={
                "training": config.train.seed,
                "init": config.train.init_seed,
                "decoding": list(config.generate.seeds),
            },
            cost=summary.cost,
            extra=extra,
            drift=drift,
            run=summary.run,
            learned=summary.learned,
        )
    )
    write_student_card(run)  # it quotes the command


def manifested(run: RunFolder) -> bool:
    """Whether the manifest is there and was written after the summary."""
    manifest = run.manifest.find()
    return manifest is not None and manifest.cost == run.summary.read().cost


def write_student_card(run: RunFolder) -> None:
    """Writes the model card of a run's student; a folder without a trained one is left alone.

    The card is no part of what identifies a model: weights, configuration and tokenizer stay as
    they are, and so do the fingerprint and the stage marker.
    """
    prepared, summary = run.prepare.find(), run.summary.find()
    if prepared is None or summary is None or not run.training.stage.marked():
        return
    config = run.config.read().tree()
    method = config["method"]
    facts = prepared.method or _facts(method["name"], method.get("fingerprint", ""))
    text = model_card(facts, summary, config, prepared, run.manifest.find())
    place = inside(run.training.student, "README.md")
    if place.is_file() and place.read_bytes() == text.encode():
        return
    # people upload this folder as it is: nothing unfinished may lie in it
    write_text(place, text, scratch=run.training.path)


def _facts(name: str, fingerprint: str) -> MethodFacts:
    """Of a run that an earlier kdbench made, which did not keep them."""
    try:
        return method_facts(name, recorded_method(name, fingerprint).method)
    except InputError:  # a third party's, trained elsewhere and not installed here
        return MethodFacts(name=name, title=name, paper="method not installed here", variant="")


def method_facts(name: str, method: "type[Method]") -> MethodFacts:
    """What a run keeps of what a method says of itself."""
    card, said = method.card, objective(method.__doc__)
    return MethodFacts(
        name=name, title=card.title, paper=card.paper, variant=card.variant, objective=said
    )
