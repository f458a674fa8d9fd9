"""Rows of the generated world on disk: the same, made again when damaged, never in the way."""

from pathlib import Path

import pytest

from kdbench.tasks.mini.stored import FOLDER, WORTH, Row, stored

MADE = tuple({"instruction": f"say {i}", "output": ["é", f"{i}"]} for i in range(WORTH))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path))
    return tmp_path / FOLDER


def never() -> tuple[Row, ...]:
    raise AssertionError("these rows are on disk")


def test_made_once_and_again_when_damaged(cache: Path) -> None:
    assert stored("train-x-0", WORTH, lambda: MADE) == MADE
    assert stored("train-x-0", WORTH, never) == MADE
    (file,) = cache.iterdir()
    text = file.read_text(encoding="utf-8")
    for wrong in (text.replace("say 7", "say 8"), text[:-100], "{}", ""):
        file.write_text(wrong, encoding="utf-8")
        assert stored("train-x-0", WORTH, lambda: MADE) == MADE
        assert file.read_text(encoding="utf-8") == text


def test_few_rows_and_a_cache_that_cannot_be_written(cache: Path) -> None:
    assert stored("dev-x-0", 1, lambda: MADE[:1]) == MADE[:1]
    assert not cache.exists()
    cache.write_text("in the way", encoding="utf-8")
    assert stored("train-x-0", WORTH, lambda: MADE) == MADE
