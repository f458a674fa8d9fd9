"""README.md of a trained student's folder, renewed whenever the run's summary or manifest is."""

from kdbench.harness.errors import InputError
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.store import write_text
from kdbench.harness.registry import find_method
from kdbench.reports.run.model_card import MethodFacts, model_card


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
    facts = _facts(method["name"], method.get("source", ""))
    text = model_card(facts, summary, config, prepared, run.manifest.find())
    write_text(run.training.student / "README.md", text)


def _facts(name: str, source: str) -> MethodFacts:
    try:
        card = find_method(source or name).method.card
    except InputError:  # a third party's, trained elsewhere and not installed here
        return MethodFacts(name=name, title=name, paper="method not installed here", variant="")
    return MethodFacts(name=name, title=card.title, paper=card.paper, variant=card.variant)
