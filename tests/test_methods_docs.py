"""The generated page about methods is that of today's classes, and cards say what they must."""

import importlib.util
import inspect
import json
from pathlib import Path

import pytest

from kdbench.harness.own_methods import METHODS
from kdbench.harness.registry import find_method
from kdbench.harness.verbs import ls

DOCS = Path(__file__).parent.parent / "docs"


def test_page_is_not_stale() -> None:
    spec = importlib.util.spec_from_file_location("make_methods", DOCS / "make_methods.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.page() == (DOCS / "methods.md").read_text(), "run: python docs/make_methods.py"


@pytest.mark.parametrize("name", METHODS)
def test_card(name: str) -> None:
    method = find_method(name).method
    assert "Source:" in (method.__doc__ or "") or name in ("sft", "minillm-code")
    assert "rXiv:" in method.card.paper or name == "sft"
    for field, info in method.Config.model_fields.items():
        assert info.description or field == "ppo", field
    source = inspect.getmodule(method)
    assert source is not None
    first = (source.__doc__ or "").splitlines()[0]
    marked = {"from the abstract": "abstract", "adapted from encoders": "adapted from encoders"}
    for variant, words in marked.items():
        assert (method.card.variant == variant) == (words in first)


def test_methods_are_small() -> None:
    folder = Path(inspect.getfile(find_method("sft").method)).parent
    sizes = [len(p.read_text().splitlines()) for p in folder.glob("*.py") if p.stem != "__init__"]
    assert sum(sizes) / len(sizes) <= 120


def test_listing_says_what_is_needed() -> None:
    rows = {row["method"]: row for row in ls.methods()}
    assert rows["uld"]["needs"] == ["teacher logits"]
    assert rows["distillm2"]["needs"][:3] == [
        "teacher logits",
        "teacher samples",
        "student samples",
    ]
    json.dumps(list(rows.values()))
