"""Teachers with a tokenizer of their own: alignment, the two methods that can, and who refuses."""

import string
from pathlib import Path

import pytest
import tiny
import torch
import zoo
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kdbench.harness.errors import InputError
from kdbench.harness.own_methods import METHODS
from kdbench.harness.registry import find_method
from kdbench.harness.runner.data import check_twins
from kdbench.tasks import mini
from kdbench.trainers.alignment import Twins
from kdbench.trainers.loop import Loop
from kdbench.trainers.methods.dskd import DSKD
from kdbench.trainers.types import Sequence

LETTERS = (string.ascii_letters + string.digits + "-:;")[: tiny.VOCAB - 2]


def characters() -> PreTrainedTokenizerFast:
    """One id a character: ids 0 and 1 are special, then letters."""
    vocabulary = {"<pad>": 0, "<eos>": tiny.EOS} | {c: i + 2 for i, c in enumerate(LETTERS)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")


def merged(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on some texts; its end token is 0."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="</s>")


def check_spans(twins: Twins, sequence: Sequence) -> int:
    """Spans say the same text on both sides; the end tokens share the last. Returns their number."""
    paired = twins(sequence)
    assert paired.twin is not None
    sides = []
    for tokenizer, one in ((twins.student, paired), (twins.teacher, paired.twin)):
        spans = one.columns["span"].long().tolist()
        assert spans == sorted(spans)
        assert set(spans) == set(range(spans[-1] + 1))
        groups: list[list[int]] = [[] for _ in range(spans[-1] + 1)]
        for token, span in zip(one.response, spans, strict=True):
            groups[span].append(token)
        assert groups[-1][-1] == tokenizer.eos_token_id
        # A span of its own is not its text (spaces at its edges), the text up to it is.
        parts = [token for group in groups[:-1] for token in group]
        sides.append((len(groups), tokenizer.decode(parts, clean_up_tokenization_spaces=False)))
    assert sides[0] == sides[1]
    return sides[0][0]


def test_mini_world_in_two_tokenizers() -> None:
    one = mini.build_tokenizer()
    rows = mini.rows("train", size="mini-test")[:30]
    texts = [str(r["output"][0] if isinstance(r["output"], list) else r["output"]) for r in rows]
    other = merged(texts, 400)
    for text in texts:
        response = (*one(text)["input_ids"], one.eos_token_id)
        number = check_spans(Twins(one, other), Sequence((5, 6), response))
        assert number > len(text.split()) / 2


def test_rows_that_the_teacher_cannot_read_whole_are_refused() -> None:
    one = mini.build_tokenizer()
    letters = characters()
    rows = [Sequence((), (*one(text)["input_ids"], one.eos_token_id)) for text in ("a", "the town")]
    twins, teacher = Twins(one, letters), tiny.model("llama")
    longest = max(len(twins(row).twin.response) for row in rows)  # type: ignore[union-attr]
    teacher.config.max_position_embeddings = longest
    check_twins(twins, rows, teacher)
    teacher.config.max_position_embeddings = longest - 1
    with pytest.raises(InputError, match=r"1 of 2 training rows .* train\.max_length"):
        check_twins(twins, rows, teacher)


def test_empty_and_unfinished_answers() -> None:
    twins = Twins(characters(), merged(["abc"] * 3, 260))
    (empty,) = [twins(Sequence((2, 3), (tiny.EOS,)))]
    assert empty.twin is not None
    assert (empty.twin.response, empty.columns["span"].tolist()) == ((0,), [0.0])
    cut = twins(Sequence((2, 3), (4, 5)))
    assert cut.twin is not None
    assert 0 not in cut.twin.response


def build(name: str, out: Path, **options: object) -> Loop:
    student_side = characters()
    texts = [student_side.decode(s.response[:-1]) for s in tiny.sequences(24, seed=1)]
    teacher_side = merged(texts, 300)
    size = len(teacher_side)
    torch.manual_seed(3)
    config = tiny.config("gpt2", width=48)
    config.vocab_size = size
    from transformers import AutoModelForCausalLM

    return tiny.loop(
        zoo.made(name),
        student=tiny.model(seed=1),
        teacher=AutoModelForCausalLM.from_config(config).eval(),
        out=out,
        teacher_vocab=size,
        twin=Twins(student_side, teacher_side),
        **options,
    )


@pytest.mark.parametrize("name", ["uld", "dskd"])
def test_gradient_does_not_depend_on_how_the_batch_is_cut(name: str, tmp_path: Path) -> None:
    base, terms = zoo.gradient(build(name, tmp_path), 10_000)
    for options, micro_tokens in (({"packed": False}, 1), ({"tile": 7}, 60)):
        other, again = zoo.gradient(build(name, tmp_path, **options), micro_tokens)
        assert zoo.relative(other, base) <= 1e-5
        for term, value in terms.items():
            assert again[term] == pytest.approx(value, rel=2e-5), term


@pytest.mark.parametrize("name", ["uld-alone", "dskd"])
def test_distance_falls(name: str, tmp_path: Path) -> None:
    loop = build(name, tmp_path, steps=12)
    first = zoo.gradient(loop, 10_000)[1]
    loop.optimizer.zero_grad()
    loop.run()
    last = zoo.gradient(loop, 10_000)[1]
    key = "response/uld" if name == "uld-alone" else "response/t2s_nll"
    assert last[key] < first[key]
    assert last["response"] < first["response"]


def test_dskd_learns_nothing_from_what_its_attention_got_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DSKD, "_divergence", lambda self, p, q: 1 + 0 * q.sum(-1))
    alone = zoo.gradient(zoo.build("dskd", tmp_path / "alone"), 10_000)[1]
    assert alone["response/t2s_kl"] == pytest.approx(1)
    across = zoo.gradient(build("dskd", tmp_path / "across"), 10_000)[1]
    assert across["response/t2s_kl"] < 0.5  # untrained, it is right by chance alone
    assert across["response/s2t_kl"] == pytest.approx(1)


def test_who_refuses_names_those_that_can(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from kdbench.harness.runner.models import shared_tokenizer

    mini.build_tokenizer().save_pretrained(tmp_path / "teacher")
    merged(["some text"], 300).save_pretrained(tmp_path / "student")
    teacher, student = (
        SimpleNamespace(ref=str(tmp_path / who), card=SimpleNamespace(name=who))
        for who in ("teacher", "student")
    )
    config = SimpleNamespace(method=SimpleNamespace(name="fkd"), teacher_sft=None)
    with pytest.raises(InputError, match=r"tokens differ: .* a method that can: .*uld, dskd"):
        shared_tokenizer(config, teacher, student, find_method("fkd").method.card)
    can = {n for n in METHODS if not find_method(n).method.card.same_tokenizer}
    assert can == {"sft", "lsrkd", "mrkd", "uld", "dskd"}
