"""A teacher that was fine-tuned for one student is another's only if both write rows alike."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from kdbench.harness.contents import Contents, tokenizer_fingerprint
from kdbench.harness.files.records import ModelRef
from kdbench.harness.identity import shared_id
from kdbench.harness.resolve import resolve
from kdbench.harness.runner import prepare
from kdbench.harness.runner.models import Located
from kdbench.tasks import mini

CONFIG = resolve(suite="mini-test", method="sft", assignments=["teacher_sft.lr=1e-4"])
FINGERPRINTS = {"train": "t", "dev": "d", "text": ""}


@pytest.fixture
def located(tmp_path: Path) -> Callable[..., Located]:
    """Keeps a tokenizer in a folder of its own and makes it a model's."""

    def keep(name: str, tokenizer: PreTrainedTokenizerBase) -> Located:
        folder = tmp_path / name
        tokenizer.save_pretrained(folder)
        card = ModelRef(
            name=name, fingerprint="f", parameters=1, tokenizer=tokenizer_fingerprint(folder)
        )
        return Located(str(folder), card)

    return keep


def changed(**fields: Any) -> PreTrainedTokenizerBase:
    """The generated world's tokenizer with other fields."""
    tokenizer = mini.build_tokenizer()
    for name, value in fields.items():
        setattr(tokenizer, name, value)
    return tokenizer


def teacher_of(
    student: Located, teacher: Located, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> str:
    """The folder's name of the teacher that is fine-tuned for a student."""
    session: Any = SimpleNamespace(config=CONFIG, cached=lambda kind, name: tmp_path / kind / name)
    prepared: Any = SimpleNamespace(
        teacher=teacher,
        base=student,
        tokenizer=tokenizer,
        rows=SimpleNamespace(fingerprints=FINGERPRINTS),
    )
    return prepare.tuned_teacher(session, prepared).ref


def test_students_that_write_rows_otherwise_have_teachers_of_their_own(
    located: Callable[..., Located], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        prepare, "trained", lambda _, name, out, *more: Located(out.path.name, teacher.card)
    )
    own = mini.build_tokenizer()
    teacher = located("teacher", own)
    other = next(t for t in own.get_vocab() if t not in own.all_special_tokens)
    tokenizers = {
        "own": own,
        "anew": changed(model_max_length=77),  # another file, the same tokens
        "end": changed(eos_token=other),
        "chat": changed(chat_template="{{ messages[0]['content'] }}"),
        "begin": changed(bos_token=other),
    }
    students = {name: located(name, each) for name, each in tokenizers.items()}
    assert students["anew"].card.tokenizer != teacher.card.tokenizer
    found = {n: teacher_of(students[n], teacher, t, tmp_path) for n, t in tokenizers.items()}
    assert len({found["own"], found["end"], found["chat"], found["begin"]}) == 4
    contents = Contents(teacher="", student="", **FINGERPRINTS)
    before = shared_id(CONFIG, contents, CONFIG.teacher_sft, teacher.card)
    assert found["own"] == found["anew"] == before  # caches of one tokenizer keep their ids
