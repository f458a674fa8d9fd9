"""``kdbench compare``: paired numbers, the prompts behind them, and refusals in one sentence."""

import json
import re
from pathlib import Path

import fakes
import numpy as np
import pytest

from kdbench.harness import cli
from kdbench.harness.api.boards import leaderboard as api_board
from kdbench.harness.errors import InputError
from kdbench.harness.printing import printable
from kdbench.reports.compare import compare
from kdbench.reports.documents.compare import compare_document
from kdbench.reports.text.formats import write


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def kdbench(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


def test_difference_is_that_of_the_prompts(runs: Path) -> None:
    a = fakes.make_run(runs, "dpkd", level=32)
    b = fakes.make_run(runs, "fkd", level=30)
    found = compare(a, b)
    rouge, exact = found.columns
    values = [
        np.array([row.metrics["rouge_l"] for row in fakes.score_rows(m, 1, level, 40, fakes.SEEDS)])
        for m, level in (("dpkd", 32), ("fkd", 30))
    ]
    difference = values[0].mean(axis=1) - values[1].mean(axis=1)
    assert rouge.difference == pytest.approx(difference.mean())
    assert rouge.low < rouge.difference < rouge.high and rouge.p < 0.01
    assert rouge.wins == (difference > 0).sum() and rouge.wins + rouge.losses == 40
    assert rouge.most[0].doc_id == np.abs(difference).argmax()
    assert len(rouge.most) == 10 and not rouge.seeds_measured
    assert (exact.metric, exact.ties, exact.most) == ("exact_match", 40, [])


def test_answers_and_references_are_shown_and_harmless(runs: Path) -> None:
    evil = "\x1b[2J\x1b]0;pwned\x07 bidi \u202e end\r\nsecond line \x9b31m of {method}"
    a = fakes.make_run(runs, "dpkd", level=32, response=evil)
    b = fakes.make_run(runs, "fkd", response="")
    found = compare(a, b)
    assert found.columns[0].most[0].answer_a == evil.format(method="dpkd")  # data stays as it is
    text = write(compare_document(found), "terminal", width=1000)
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert "\\x1b[2J" in text and "\\u202e" in text and "second line" in text
    assert "reference 3" in text and "b          (empty)" in text


def test_printable_keeps_ordinary_text() -> None:
    plain = "Größe, naïve — 数学 🙂 a'b\"c\\n"
    assert printable(plain) == plain
    assert printable("a\r\nb\tc\u00a0d\x00\u200b") == "a⏎b⇥c\\xa0d\\x00\\u200b"


def test_mismatches_are_refused_in_one_sentence(runs: Path) -> None:
    a = fakes.make_run(runs, "dpkd", tasks=["dolly", "vicuna"])
    for b, words in (
        (fakes.make_run(runs, "x1", edition="full"), "edition mini and full"),
        (fakes.make_run(runs, "x2", protocol="minillm-compat"), "protocol strict and"),
        (
            fakes.make_run(runs, "x3", evaluation={"seeds": [10, 30]}),
            "decoding seeds 10,20 and 10,30",
        ),
        (fakes.make_run(runs, "x4", evaluation={"data_sha256": "o"}), "test data"),
        (fakes.make_run(runs, "x5", prompts=30), "40 and 30, 30 in common"),
        (fakes.make_run(runs, "x6", tasks=["sni"]), "share no evaluation"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            compare(a, b)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="share no evaluation of selfinst"):
        compare(a, a, tasks=["selfinst"])


def test_a_task_evaluated_differently_is_left_out_with_its_reason(runs: Path) -> None:
    a = fakes.make_run(runs, "dpkd", tasks=["dolly", "sni"])
    b = fakes.make_run(runs, "fkd", tasks=["dolly"])
    other = fakes.make_run(runs, "sft", tasks=["sni"], evaluation={"scorer": "2"})
    (source,) = other.glob("eval/sni@*")
    (b / "eval" / source.name).mkdir()
    for file in source.iterdir():
        (b / "eval" / source.name / file.name).write_text(file.read_text())
    scores = json.loads((other / "summary.json").read_text())["scores"]
    summary = json.loads((b / "summary.json").read_text())
    summary["scores"] |= scores
    fakes.write(b / "summary.json", summary)
    found = compare(a, b)
    assert {column.heading for column in found.columns} == {"dolly[mini]"}
    assert found.left_out == ["sni: scorer 1 and 2"]


def test_verb_finds_runs_and_methods(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2, 3):
        fakes.make_run(runs, "dpkd", seed, level=32)
        fakes.make_run(runs, "fkd", seed)
    code, out, _ = kdbench(capsys, "compare", "dpkd", "fkd", "--runs-dir", runs)
    pair = "(fake: big → small)"
    assert code == 0 and f"a: dpkd {pair}\nb: fkd {pair}\n" in out
    assert "training variance" not in out
    name = next(runs.glob("fkd-*")).name
    code, out, _ = kdbench(capsys, "compare", "dpkd", name, "--runs-dir", runs, "--json")
    assert code == 0
    document = json.loads(out)
    assert (
        not document["columns"][0]["seeds_measured"] and len(document["columns"][0]["most"]) == 10
    )
    code, _, err = kdbench(capsys, "compare", "dpkd", "nobody", "--runs-dir", runs)
    assert code == 2 and "nobody" in err
    code, _, err = kdbench(capsys, "compare", "dpkd", "fkd", "--task", "x", "--runs-dir", runs)
    assert code == 2 and err.startswith("kdbench: dpkd and fkd cannot be compared")


@pytest.fixture
def ablated(runs: Path) -> Path:
    """A method with two rows of two training seeds each, and another method."""
    for options in ({}, {"teacher_mix": 0.0}):
        for seed in (1, 2):
            run = fakes.make_run(runs, "minillm", seed, level=32)
            fakes.edit(run / "summary.json", {"run.settings": str(options)})
    fakes.make_run(runs, "sft")
    return runs


def test_a_method_with_several_rows_is_named_by_digits_of_a_run(
    ablated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = kdbench(capsys, "compare", "minillm", "sft", "--runs-dir", ablated)
    names = re.findall(r"minillm:[0-9a-f]+", err)
    assert code == 2 and len(set(names)) == 2 and "separated by commas" in err
    for first, second in (names, [name.replace(":", "@") for name in names]):
        arguments = ["compare", first, second, "--runs-dir", ablated, "--json"]
        code, out, _ = kdbench(capsys, *arguments)
        document = json.loads(out)
        assert code == 0 and document["a"] != document["b"], "equal labels are told apart"
        assert "training seeds: 2 |" in document["signature"]
    code, _, err = kdbench(capsys, "compare", "minillm:ffff", "sft", "--runs-dir", ablated)
    assert code == 2 and "minillm:ffff" in err


def test_a_side_may_be_several_run_folders(
    ablated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = sorted(ablated.glob("minillm-*"))[2:]
    side = ",".join([str(folders[0]), folders[1].name])
    code, out, _ = kdbench(capsys, "compare", side, "sft", "--runs-dir", ablated, "--json")
    assert code == 0 and "training seeds: 1,2 (below 2" in json.loads(out)["signature"]


@pytest.fixture
def paired(runs: Path) -> Path:
    """Methods of two pairs of models, and one of each pair alone, with a teacher of both."""
    for student in ("small", "tiny"):
        model = {"name": student, "fingerprint": student, "parameters": 1}
        for method in ("dpkd", "fkd", f"only-{student}"):
            for seed in (1, 2):
                level = 32 if student == "small" else 20
                fakes.make_run(runs, method, seed, level=level, card={"student": model})
    return runs


def test_both_sides_are_of_one_pair_of_models(
    paired: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A method of another size is no other method: names alone are refused, and what to type is said."""
    place = ("--runs-dir", paired)
    code, _, err = kdbench(capsys, "compare", "dpkd", "fkd", *place)
    assert code == 2 and "dpkd and fkd are both there for 2 pairs of models" in err
    named = dict(re.findall(r"(dpkd:[0-9a-f]+) \(fake: big → (\w+)\)", err))
    assert sorted(named.values()) == ["small", "tiny"]
    for name, student in named.items():
        code, out, _ = kdbench(capsys, "compare", name, "fkd", *place)
        pair = f"fake: big → {student}"
        assert code == 0 and f"a: dpkd ({pair})\nb: fkd ({pair})\n" in out
        assert f"models: {pair} |" in re.sub(r"\s+", " ", out) and "training seeds: 2 |" in out
    code, out, _ = kdbench(capsys, "compare", "only-tiny", "fkd", *place)
    assert code == 0 and "b: fkd (fake: big → tiny)" in out, "the one pair that both have"


def test_two_pairs_are_compared_only_where_runs_are_named(
    paired: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ("--runs-dir", paired)
    code, _, err = kdbench(capsys, "compare", "only-small", "only-tiny", *place)
    assert code == 2 and "no pair of models has both sides: only-small is there for fake:" in err
    one, two = (
        ",".join(p.name for p in sorted(paired.glob(f"only-{s}-*"))) for s in ("small", "tiny")
    )
    code, _, err = kdbench(capsys, "compare", one, "only-tiny", *place)
    assert code == 2 and "given as run folders" in err
    code, out, _ = kdbench(capsys, "compare", one, two, *place)
    assert (
        code == 0 and "a: only-small (fake: big → small)\nb: only-tiny (fake: big → tiny)\n" in out
    )
    assert "models: fake: big → small and fake: big → tiny |" in re.sub(r"\s+", " ", out)


def test_text_has_the_signature(runs: Path) -> None:
    found = compare(fakes.make_run(runs, "dpkd"), fakes.make_run(runs, "fkd"))
    for field in ("suite: fake", "protocol: strict", "decoding seeds: 10,20", "dolly[mini]=40"):
        assert field in found.signature
    assert (
        write(compare_document(found), "terminal", width=1000)
        .rstrip()
        .endswith(f"signature: {found.signature}")
    )


def test_a_damaged_training_seed_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        for method in ("dpkd", "fkd"):
            last = fakes.make_run(runs, method, seed)
    place = ("--runs-dir", runs)
    verbs = {
        "compare": ("compare", "dpkd", "fkd", *place),
        "claims": ("claims", *place),
        "ledger": ("ledger", *place),
        "board": ("leaderboard", *place),
    }
    for command in verbs.values():
        assert kdbench(capsys, *command)[0] == 0, command
    (last / "summary.json").write_text('{"run": ')
    for command in verbs.values():
        for form in ((), ("--json",)):
            code, _, error = kdbench(capsys, *command, *form)
            assert code == 1, command
            assert error.count("kdbench: left out: ") == 1 and last.name in error, (command, error)
    board = api_board(runs)
    assert len(board.left_out) == 1
    assert f"left out: {last.name}" in capsys.readouterr().err
