"""README.md of a trained student's folder, renewed whenever the run's summary or manifest is."""

from pathlib import Path

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import PrepareRecord, Summary
from kdbench.harness.files.store import is_done, read_json, read_record, write_text
from kdbench.harness.registry import find_method
from kdbench.reports.card import read_manifest
from kdbench.reports.model_card import MethodFacts, model_card


def write_student_card(folder: Path) -> None:
    """Writes the model card of a run's student; a folder without a trained one is left alone.

    The card is no part of what identifies a model: weights, configuration and tokenizer stay as
    they are, and so do the fingerprint and the stage marker.
    """
    needed = [folder / name for name in ("config.json", "prepare.json", "summary.json")]
    if not is_done(folder / "train", "train") or not all(path.is_file() for path in needed):
        return
    config = read_json(needed[0])
    text = model_card(
        _facts(config["method"]["name"], config["method"].get("source", "")),
        read_record(needed[2], Summary),
        config,
        read_record(needed[1], PrepareRecord),
        read_manifest(folder),
    )
    write_text(folder / "train" / "student" / "README.md", text)


def _facts(name: str, source: str) -> MethodFacts:
    try:
        card = find_method(source or name).method.card
    except InputError:  # a third party's, trained elsewhere and not installed here
        return MethodFacts(name=name, title=name, paper="method not installed here", variant="")
    return MethodFacts(name=name, title=card.title, paper=card.paper, variant=card.variant)
