"""Chat templates and tokenizers as content: dates, arguments, begin tokens, ends of turns, twins."""

import datetime
import itertools
import random
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import transformers.utils.chat_template_utils as rendering
import yaml
from chat_styles import STYLES, WORDS, Style, tokenizer
from tokenizers import AddedToken, normalizers

from kdbench.harness.config import DataConfig, PairConfig, RunConfig, with_precision
from kdbench.harness.contents import tokenizer_fingerprint
from kdbench.harness.data import chat
from kdbench.harness.data.examples import Example
from kdbench.harness.data.templates import PromptFormat, render
from kdbench.harness.data.tokens import (
    TokenRule,
    encode_whole,
    end_of,
    opening,
    tokenise,
)
from kdbench.harness.errors import InputError
from kdbench.harness.identity import Contents, run_id, run_parts
from kdbench.harness.preflight import template
from kdbench.harness.resolve import resolve
from kdbench.harness.runner.data import twins_of
from kdbench.harness.runner.references import check_references
from kdbench.harness.runner.rows import Rows
from kdbench.harness.runner.training import say_ends
from kdbench.trainers.alignment import Twins, places
from kdbench.trainers.models import Vocabulary, compare, vocabulary
from kdbench.trainers.types import Sequence

ROW = Example(0, "Name a plant that grows in salt water.", "", ("Eelgrass does.",))
RULE = TokenRule(boundary="apart", over_long="drop")


def form_of(style: Style, **more: Any) -> PromptFormat:
    return PromptFormat("chat", arguments=style.arguments, **more)


def subject(made: Any, form: PromptFormat, role: str = "student") -> Any:
    return SimpleNamespace(tokenizer=made, form=form, role=role, name=f"{role} 'x'")


# -- styles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STYLES)
def test_what_is_trained_is_what_the_template_writes(name: str) -> None:
    style = STYLES[name]
    made, form = style.tokenizer(), form_of(style)
    turn = chat.turn(made, arguments=style.arguments)
    assert (turn.end, turn.prefix, turn.before) == (style.end, style.prefix, style.before)
    end = end_of(made, form)
    words = vocabulary(made, end=end)
    (row,), _ = tokenise([ROW], made, template=form, rule=RULE, end_id=words.eos_ids[0])
    # trained: the answer and what ends a turn; the end token stops answers too
    assert made.convert_ids_to_tokens(row.response_ids[-1]) == (style.end or style.stop)
    assert made.eos_token_id in words.eos_ids
    assert made.decode(row.response_ids[:-1]) == "Eelgrass does."
    # nothing is added to what the template wrote, so no begin token is there twice
    assert made.decode(row.prompt_ids) == row.prompt
    assert row.prompt_ids.count(made.bos_token_id) == row.prompt.count(style.begin) <= 1
    if style.prefix and style.end:  # the row is the conversation as the template writes it
        said = [{"role": "user", "content": ROW.instruction}]
        said.append({"role": "assistant", "content": "Eelgrass does."})
        whole = chat.rendered(made, said, arguments=style.arguments, opened=False)
        trained = row.prompt + turn.before + made.decode(row.response_ids)
        assert whole.replace(f" {style.end}", style.end).startswith(trained)
    found = list(template.check(subject(made, form)))
    assert {f.state for f in found} <= {"ok", "warn"}
    strange = not style.prefix or not style.end or bool(style.before.strip())
    assert (len(found) > 1) == strange
    assert (style.end or style.stop) in found[0].found


def test_a_template_that_is_not_the_same_twice_is_refused() -> None:
    made = STYLES["zephyr"].tokenizer()
    made.chat_template = "{{ range(100000) | random }}" + made.chat_template
    (found,) = template.check(subject(made, PromptFormat("chat")))
    assert found.state == "fail" and "something else each time" in found.found


def test_a_teacher_without_a_chat_template_reads_the_students() -> None:
    made = tokenizer()
    assert not list(template.check(subject(made, PromptFormat("chat"), "teacher")))
    with pytest.raises(InputError, match="has no chat template"):
        list(template.check(subject(made, PromptFormat("chat"))))


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content",
        "{{ raise_exception('only with tools') }}",
        "{{ messages[7].content }}",
        "{{ messages | nofilter }}",
    ],
)
def test_a_template_that_fails_is_one_sentence(source: str) -> None:
    made = tokenizer()
    made.chat_template = source
    with pytest.raises(InputError, match="the chat template of the tokenizer") as caught:
        render(ROW, "chat", made)
    assert "\n" not in str(caught.value)


def test_a_template_that_leaves_the_answer_out_is_refused() -> None:
    made = tokenizer()
    made.chat_template = "{{ messages[0].content }}:"
    with pytest.raises(InputError, match="a question and its answer once each"):
        chat.turn(made)


# -- dates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["%d %b %Y", "%A, %B %-d, %Y", "%Y-%m-%d %H:%M", "%j %% %y"])
def test_a_template_is_told_the_recorded_date(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Clock":
            return cls(2031, 5, 6)

    monkeypatch.setattr(rendering, "datetime", Clock)
    made = tokenizer()
    made.chat_template = (
        "{% set format = '"
        + asked
        + "' %}{% macro day() %}{{ strftime_now(format) }}{% endmacro %}\n"
        "  {%- if strftime_now is defined %}{{ day() }}|{% endif %}{{ messages[0].content }}"
    )
    for date in ("2024-07-26", "2027-02-03"):
        day = datetime.datetime.fromisoformat(date)
        text = render(ROW, PromptFormat("chat", date=date), made)
        assert text == f"{day.strftime(asked)}|{ROW.instruction}"


def test_the_rest_of_a_template_is_rendered_as_before() -> None:
    plain = "\n {%- set x = 1 %}\n{{ messages[0].content }} \n{{ x }}|"
    made = tokenizer()
    made.chat_template = plain
    alone = render(ROW, "chat", made)
    made.chat_template = plain + "{% if false %}{{ strftime_now('%d') }}{% endif %}"
    assert render(ROW, "chat", made) == alone


def test_an_argument_wins_over_the_date() -> None:
    made = STYLES["llama 3.1, date_string"].tokenizer()
    assert "26 Jul 2024" in render(ROW, "chat", made)
    told = PromptFormat("chat", arguments={"date_string": "some day"})
    assert "some day" in render(ROW, told, made)


def test_a_date_may_come_from_yaml_and_must_be_one() -> None:
    (day,) = yaml.safe_load("[2025-03-09]")
    assert DataConfig(train="dolly", template_date=day).template_date == "2025-03-09"
    with pytest.raises(ValueError, match="template_date"):
        DataConfig(train="dolly", template_date="yesterday")


@pytest.mark.parametrize(
    "given",
    ["data.template_arguments={deep: {a: [1]}, thinks: no}", "data.template_arguments.thinks=no"],
)
def test_arguments_are_given_on_the_command_line_and_identify_the_run(given: str) -> None:
    config = resolve(suite="mini", method="sft", assignments=[given])
    assert config.training_format.arguments["thinks"] is False
    plain = resolve(suite="mini", method="sft", assignments=["data.template_date=2024-07-26"])
    contents = Contents("t", "s", "a", "b", "c")
    resolved = [with_precision(each, "fp32") for each in (config, plain)]
    ids = {run_id(run_parts(each, contents)) for each in resolved}
    assert len(ids) == 2
    dated = resolve(suite="mini", method="sft", assignments=["data.template_date=2025-01-02"])
    assert run_id(run_parts(with_precision(dated, "fp32"), contents)) not in ids


# -- begin tokens ---------------------------------------------------------------------------------


@pytest.mark.parametrize("adds", ["", "<s>"])
@pytest.mark.parametrize("name", ["alpaca", "none", "chat"])
def test_a_prompt_has_the_begin_token_once_or_never(adds: str, name: str) -> None:
    for written in (False, True):
        made = tokenizer(adds=adds)
        made.chat_template = ("{{ bos_token }}" if written else "") + "{{ messages[0].content }}"
        text = "<s>Hello" if written else "Hello"
        row = Example(0, "", "", ("x",), prompt=text if name != "chat" else "Hello")
        for begin in ("auto", "always", "never"):
            form = PromptFormat(name, begin=begin)  # type: ignore[arg-type]
            (found,), _ = tokenise([row], made, template=form, rule=RULE, end_id=1)
            auto = written or (bool(adds) and name != "chat")
            wanted = {"auto": auto, "always": True, "never": written}[begin]
            assert found.prompt_ids.count(made.bos_token_id) == wanted
            assert (found.prompt_ids[0] == made.bos_token_id) == wanted
            assert made.decode(found.prompt_ids).removeprefix("<s>") == "Hello"


def test_what_a_tokenizer_adds_may_be_more_than_one_token() -> None:
    made = tokenizer(("<s>", "</s>", "[M]"), adds="[M]")
    assert made.convert_ids_to_tokens(list(opening(made, "alpaca"))) == ["[M]"]
    assert encode_whole(made, "a", PromptFormat("none", begin="never")) == made.encode(
        "a", add_special_tokens=False
    )


def test_no_begin_token_to_write_is_refused() -> None:
    made = tokenizer(bos_token=None)
    with pytest.raises(InputError, match="names no begin token"):
        opening(made, PromptFormat("alpaca", begin="always"))


def test_a_cut_prompt_keeps_its_response() -> None:
    made = tokenizer(adds="<s>")
    row = Example(0, "", "", ("Eelgrass",), prompt="Name a plant." * 30)
    for boundary in ("joint", "apart"):
        rule = TokenRule(boundary=boundary, over_long="cut", max_prompt=9, max_length=40)  # type: ignore[arg-type]
        (found,), counts = tokenise([row], made, template="alpaca", rule=rule, end_id=1)
        assert found.prompt_ids[0] == made.bos_token_id and len(found.prompt_ids) == 9
        assert made.decode(found.response_ids[:-1]) == "Eelgrass"
        assert counts.boundary_different == 0


# -- identity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file",
    [
        "chat_template.jinja",
        "additional_chat_templates/rag.jinja",
        "added_tokens.json",
        "spiece.model",
    ],
)
def test_every_file_of_a_tokenizer_is_content(tmp_path: Path, file: str) -> None:
    STYLES["gemma"].tokenizer().save_pretrained(tmp_path)
    place = tmp_path / file
    place.parent.mkdir(exist_ok=True)
    place.write_text("one")
    before = tokenizer_fingerprint(tmp_path)
    place.write_text("two words")
    assert tokenizer_fingerprint(tmp_path) != before


# -- two tokenizers -------------------------------------------------------------------------------


def test_another_end_token_is_not_another_tokenizer() -> None:
    marks = ("<s>", "</s>", "<stop>")
    one, other = tokenizer(marks), tokenizer(marks, eos_token="<stop>", adds="<s>")
    assert compare(one, other) == (len(one), "another end token, '</s>' and '<stop>'")
    assert compare(one, one) == (len(one), "")


def test_ids_beyond_the_others_are_masked_and_named() -> None:
    one, other = tokenizer(), tokenizer()
    other.add_tokens([AddedToken(f"<extra{i}>", special=True) for i in range(6)])
    shared, said = compare(one, other)
    assert shared == len(one)
    assert said == (
        "6 tokens that only the second has: '<extra0>', '<extra1>', '<extra2>', '<extra3>' and 2 more"
    )
    words = vocabulary(other, size=shared)
    assert words.size == len(one) and all(i < words.size for i in (*words.eos_ids, words.pad_id))


def test_tokens_that_changed_are_named() -> None:
    one = tokenizer(("<s>", "</s>", "<a>", "<b>"))
    other = tokenizer(("<s>", "</s>", "<a>", "<c>"))
    assert compare(one, other) == (0, "1 added tokens differ: 3 is '<b>' and '<c>'")
    assert compare(one, tokenizer(size=300)).shared == 0
    lower = tokenizer(normalizer=normalizers.Lowercase())
    assert compare(tokenizer(), lower).said.startswith("one vocabulary, but 'The quick")


def test_a_model_says_what_its_answers_end_with() -> None:
    model = tiny.model("gpt2")
    model.generation_config.eos_token_id = 3
    say_ends(model, Vocabulary(size=9, eos_ids=(3, 4), pad_id=0))
    # the second is what the teacher's answers may end with: a student that writes it has ended
    assert model.generation_config.eos_token_id == [3, 4]
    say_ends(model, Vocabulary(size=9, eos_ids=(4, 3), pad_id=0))
    assert model.generation_config.eos_token_id == [3, 4]
    say_ends(model, Vocabulary(size=9, eos_ids=(5,), pad_id=0))
    assert model.generation_config.eos_token_id == [5]


# -- twins ----------------------------------------------------------------------------------------

TEXTS = (
    "Ångström, naïve café; 한국어 말 — ﬁne ½ ΩMEGA",
    "so do mangroves: e\u0301e\u0301e\u0301 and o\u0302\u0323 twice, o\u0302\u0323",
    "İstanbul's weiß Straße “quoted” … ｆｕｌｌ　ｗｉｄｔｈ",
    "",
    " \n  spaces\tand   more ",
    "emoji 👩‍🔬 and 🇫🇷 flags",
)
NORMALISERS = {
    "none": None,
    "nfc": normalizers.NFC(),
    "nfd": normalizers.NFD(),
    "nfkc": normalizers.NFKC(),
    "nfkd": normalizers.NFKD(),
    "lower": normalizers.Lowercase(),
    "no accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "quotes": normalizers.Replace("“", '"'),
    "dropped": normalizers.Replace("and", ""),
    "strip": normalizers.Strip(),
}


def wrong_spans(one: Any, other: Any, text: str, same: Any) -> tuple[int, int]:
    """Spans of a text in two tokenizers, and how many of them say something else."""
    ids = one(text, add_special_tokens=False)["input_ids"]
    paired = Twins(one, other)(Sequence((5,), (*ids, one.eos_token_id)))
    assert paired.twin is not None
    sides = []
    for made, seq in ((one, paired), (other, paired.twin)):
        spans = seq.columns["span"].long().tolist()
        assert spans == sorted(spans)
        parts: list[list[int]] = [[] for _ in range(spans[-1] + 1)]
        for token, span in zip(seq.response, spans, strict=True):
            parts[span].append(token)
        assert parts[-1][-1] == made.eos_token_id
        sides.append([made.decode(part) for part in parts[:-1]])
    assert len(sides[0]) == len(sides[1])
    return len(sides[0]), sum(same(a) != same(b) for a, b in zip(*sides, strict=True))


def skeleton(text: str) -> str:
    """What no normaliser of `NORMALISERS` touches."""
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    kept = (c for c in apart if unicodedata.category(c) != "Mn" and c not in '“" ')
    return "".join(kept).replace("and", "").strip()


@pytest.mark.parametrize("name", NORMALISERS)
@pytest.mark.parametrize("whose", ["teacher", "student"])
def test_spans_say_the_same_whatever_is_normalised(name: str, whose: str) -> None:
    plain = {"student": {"size": 330}, "teacher": {"size": 300}}
    plain[whose]["normalizer"] = NORMALISERS[name]  # type: ignore[assignment]
    one, other = tokenizer(**plain["student"]), tokenizer(**plain["teacher"])  # type: ignore[arg-type]
    for text in (*TEXTS, WORDS, f"{WORDS} {TEXTS[1]} {WORDS} {TEXTS[0]} {WORDS}"):
        spans, wrong = wrong_spans(one, other, text, skeleton)
        assert wrong == 0
    assert spans > 60  # of the last, long text: they are no larger than they need be


POOL = (
    "abcdefgh ABC 0123",
    "éèêëçñöüß",
    "e\u0301o\u0308\u0323n\u0303a\u030a",
    "한국어 각각",
    "ﬁﬂ½①ｆｕ",
    "你好世界",
    "“”‘’…—",
    "👩‍🔬🇫🇷🙂",
    "  \n\tand and ",
    "नमस्ते",
    "مرحبا",
    "İıſ",
)


@pytest.mark.long
def test_twins_of_random_texts_under_all_pairs_of_normalisers(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = random.Random(11)
    made = {
        n: [tokenizer(size=s, normalizer=r) for s in (330, 300)] for n, r in NORMALISERS.items()
    }
    tried = spans = wrong = 0
    for one, other in itertools.product(NORMALISERS, NORMALISERS):
        for _ in range(30):
            words = rng.choices(POOL, k=rng.randint(1, 12))
            text = " ".join("".join(rng.choices(word, k=rng.randint(1, 6))) for word in words)
            number, bad = wrong_spans(made[one][0], made[other][1], text, skeleton)
            tried, spans, wrong = tried + 1, spans + number, wrong + bool(bad)
            if bad:
                print(one, other, repr(text))
    with capsys.disabled():
        print(f"\ntwins: tried {tried} texts, {spans} spans; texts with a wrong span {wrong}")
    assert wrong == 0


@pytest.mark.long
def test_all_styles_in_all_settings(capsys: pytest.CaptureFixture[str]) -> None:
    tried = 0
    for (name, style), adds, begin, date in itertools.product(
        STYLES.items(), (False, True), ("auto", "always", "never"), ("2024-07-26", "2030-12-01")
    ):
        made = style.tokenizer(adds=style.begin if adds else "")
        form = form_of(style, date=date, begin=begin)
        end = vocabulary(made, end=end_of(made, form)).eos_ids[0]
        (row,), _ = tokenise([ROW], made, template=form, rule=RULE, end_id=end)
        count = row.prompt_ids.count(made.bos_token_id)
        assert count == max(row.prompt.count(style.begin), begin == "always"), name
        assert made.convert_ids_to_tokens(row.response_ids[-1]) == (style.end or style.stop)
        assert not any(f.state == "fail" for f in template.check(subject(made, form)))
        tried += 1
    with capsys.disabled():
        print(f"\nstyles: tried {tried} settings of {len(STYLES)} styles")


def test_places_of_texts_that_differ() -> None:
    assert places("ab", "ab") == ([0, 1, 2], [0, 1, 2])
    one, other = places("cafe\u0301!", "café!")
    assert one == [0, 1, 2, 3, 4, 5, 6] and other == [0, 1, 2, 3, 5, 6]
    one, other = places("a x b", "a  b")
    assert one[-1] == other[-1] and one[1] == other[1] == 1


def test_a_teacher_reads_prompts_in_its_own_format() -> None:
    student, teacher = STYLES["chatml"].tokenizer(), STYLES["gemma"].tokenizer(size=300)
    config = RunConfig.model_construct(
        pair=PairConfig(teacher="t", student="s", template="chat"), data=DataConfig(train="d")
    )
    rows = Rows([ROW], [], [], {})
    twins = _twins(rows, config, student, teacher)
    end = end_of(student, "chat")
    assert end is not None
    (row,), _ = tokenise([ROW], student, template="chat", rule=RULE, end_id=end)
    twin = twins(Sequence(row.prompt_ids, row.response_ids, row.key)).twin
    assert twin is not None
    assert teacher.decode(twin.prompt) == render(ROW, "chat", teacher)
    assert teacher.convert_ids_to_tokens(twin.response[-1]) == "<end_of_turn>"
    assert teacher.decode(twin.response[:-1]) == "Eelgrass does."


def _twins(rows: Rows, config: RunConfig, student: Any, teacher: Any) -> Twins:
    from unittest import mock

    with mock.patch("kdbench.harness.runner.data.load_tokenizer", lambda ref: teacher):
        return twins_of(rows, config, student, "folder")


def test_a_teacher_without_a_chat_template_is_refused_before_the_training_where_it_is_asked_tasks(
    tmp_path: Path,
) -> None:
    made = tokenizer()
    made.save_pretrained(tmp_path)
    teacher: Any = SimpleNamespace(ref=str(tmp_path), card=SimpleNamespace(name="base"))
    given = [f"pair.teacher={tmp_path}", "teacher_sft=null"]

    def check(*more: str) -> None:
        config = resolve(suite="smollm2", method="fkd", assignments=[*given, *more])
        assert config.task_template == "chat" or more
        check_references(config, teacher)

    with pytest.raises(InputError, match="teacher base has no chat template"):
        check()
    check("tasks.template=alpaca")
    made.chat_template = STYLES["chatml"].source
    made.save_pretrained(tmp_path)
    check()
