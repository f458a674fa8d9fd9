"""Claims: stated tests, their verdicts on boards made to give each one, and what is missing."""

import json
import re
from pathlib import Path
from typing import Any

import fakes
import pytest

from kdbench.harness import cli
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import ModelRef, ScoreRow
from kdbench.harness.metrics import METRICS
from kdbench.harness.own_methods import METHODS
from kdbench.reports.claims.book import claim_book
from kdbench.reports.claims.document import claims_document
from kdbench.reports.claims.judge import JudgedClaim, judge_claims
from kdbench.reports.text.formats import write


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def board(runs: Path, levels: dict[str, float], **more: Any) -> None:
    for method, level in levels.items():
        fakes.make_run(runs, method, level=level, **more)


def judged(runs: Path, name: str) -> JudgedClaim:
    (found,) = judge_claims([runs], claim_book().only([name])).claims
    return found


def test_claims_are_about_things_that_exist() -> None:
    claims = claim_book().claims
    assert {claim.paper for claim in claims} == {"MiniLLM", "DPKD"}
    assert len({claim.id for claim in claims}) == len(claims)
    for claim in claims:
        assert {claim.method, *claim.against} <= set(METHODS), claim.id
        known = METRICS[claim.metric]
        assert known.better == (1 if claim.better == "higher" else -1), claim.id


@pytest.mark.parametrize(
    ("minillm", "verdict"), [(36.0, "holds"), (24.0, "does not hold"), (30.0, "not significant")]
)
def test_verdicts_of_a_paired_claim(runs: Path, minillm: float, verdict: str) -> None:
    board(runs, {"minillm": minillm, "sft": 30, "fkd": 30, "seqkd": 30}, tasks=["dolly", "vicuna"])
    found = judged(runs, "minillm-rouge")
    assert found.verdict == verdict
    assert len(found.tests) == 6 and found.not_evaluated == ["selfinst", "sni", "unni"]
    for test in found.tests:
        assert test.difference == pytest.approx(minillm - 30, abs=0.8)
        assert test.low <= test.difference <= test.high and test.p_holm >= test.p


def test_one_rival_ahead_is_enough_to_contradict(runs: Path) -> None:
    board(runs, {"minillm": 36, "sft": 30, "fkd": 30, "seqkd": 40})
    found = judged(runs, "minillm-rouge")
    assert found.verdict == "does not hold"
    assert [test.outcome for test in found.tests] == ["for", "for", "against"]
    assert found.reason == "of 3 tests 2 for, 1 against"


def test_a_missing_rival_is_named_and_leaves_the_claim_open(runs: Path) -> None:
    board(runs, {"minillm": 36, "sft": 30})
    found = judged(runs, "minillm-rouge")
    assert found.verdict == "not measured"
    assert found.reason == "no run of fkd, seqkd; of 1 tests 1 for, 0 against"
    assert judged(runs, "dpkd-rouge").reason.startswith("no run of dpkd")


def test_missing_measurements_name_their_remedy(runs: Path) -> None:
    board(runs, {"minillm": 36, "sft": 30, "fkd": 30, "seqkd": 30})
    for name, words in (
        ("minillm-quality", "kdbench judge"),
        ("minillm-exposure", "--probes exposure"),
        ("minillm-calibration", "--tasks cls"),
        ("reverse-kl-precision", "--probes truth"),
        ("minillm-scales", "needs 2 pairs of models, the runs have these methods on 1"),
    ):
        found = judged(runs, name)
        assert found.verdict == "not measured" and words in found.reason, name


def exposure(value: float) -> dict[str, Any]:
    bounds = {"value": value, "low": value - 3, "high": value + 3}
    return {"exposure": {"prompts": 40, "at_length": {"ex_acc_err": bounds}}}


@pytest.mark.parametrize(
    ("seqkd", "verdict"), [(30, "holds"), (11, "not significant"), (-5, "does not hold")]
)
def test_probes_are_compared_by_their_intervals(runs: Path, seqkd: float, verdict: str) -> None:
    for method, value in (("minillm", 10), ("sft", 30), ("fkd", 25), ("seqkd", seqkd)):
        fakes.make_run(runs, method, probes=exposure(value))
    found = judged(runs, "minillm-exposure")
    assert found.verdict == verdict
    last = found.tests[-1]
    assert not last.paired and last.difference == pytest.approx(10 - seqkd)
    assert last.high - last.low == pytest.approx(6 * 2**0.5)


def test_probes_of_one_seed_are_of_these_students(runs: Path) -> None:
    for method, value in (("minillm", 10), ("sft", 30), ("fkd", 25), ("seqkd", 30)):
        fakes.make_run(runs, method, probes=exposure(value))
    report = judge_claims([runs], claim_book().only(["minillm-exposure"]))
    markdown = " ".join(write(claims_document(report), "md").split())
    assert markdown.count("for (these students)") == 3
    few = "(these students only: fewer than 2 training seeds)"
    assert f"normal test of two intervals {few}" in markdown
    for method, value in (("minillm", 10), ("sft", 30), ("fkd", 25), ("seqkd", 30)):
        for seed in (2, 3):
            fakes.make_run(runs, method, seed, probes=exposure(value + 0.1 * seed))
    report = judge_claims([runs], claim_book().only(["minillm-exposure"]))
    assert report.claims[0].tests[0].seeds_measured
    assert "these students" not in write(claims_document(report), "md")


def test_only_long_references_count(runs: Path) -> None:
    """fakes.score_rows gives references of 3, 13 and 23 tokens in turn."""
    board(runs, {"minillm": 36, "sft": 30, "fkd": 30, "seqkd": 30}, prompts=60)
    found = judged(runs, "minillm-long")
    assert {test.n_prompts for test in found.tests} == {40} and found.verdict == "holds"
    assert judged(runs, "minillm-rouge").tests[0].n_prompts == 60
    board(runs, {"dpkd": 36}, prompts=60)
    short = judged(runs, "dpkd-length")  # no reference has 30 tokens
    assert short.verdict == "not measured" and short.not_evaluated == ["dolly"]


def test_seeds_luck_is_that_of_the_prompts_tested(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training seeds that differ on long references, and on short ones the other way: not in the mean."""
    luck = {"minillm": (-4, 0, 4), "sft": (4, -4, 0), "fkd": (0, 4, -4), "seqkd": (-4, 4, 0)}
    plain = fakes.score_rows

    def moved(method: str, seed: int, *rest: Any) -> list[ScoreRow]:
        rows = plain(method, seed, *rest)
        for row in rows:
            by = luck[method][seed] * (1 if row.reference_tokens > 11 else -2)
            row.metrics["rouge_l"] = [value + by for value in row.metrics["rouge_l"]]
        return rows

    monkeypatch.setattr(fakes, "score_rows", moved)
    for method, level in {"minillm": 36, "sft": 30, "fkd": 30, "seqkd": 30}.items():
        for seed in range(3):
            fakes.make_run(runs, method, seed, level=level, prompts=60)
    whole, some = judged(runs, "minillm-rouge"), judged(runs, "minillm-long")
    assert all(test.seeds_measured for test in (*whole.tests, *some.tests))
    assert whole.verdict == "holds" and some.verdict == "not significant"
    for test in some.tests:  # standard error (16/3 + 16/3) ** 0.5, 6 degrees of freedom
        assert (test.high - test.low) / 2 == pytest.approx(2.447 * 3.27, rel=0.15)


def test_seeds_enter_and_the_closed_row_is_taken(runs: Path) -> None:
    for seed in (1, 2, 3):
        board_seed = {"minillm": 36, "sft": 30, "fkd": 30, "seqkd": 30}
        for method, level in board_seed.items():
            fakes.make_run(runs, method, seed, level=level)
    odd = fakes.make_run(runs, "minillm", 4, level=10)
    fakes.edit(odd / "config.json", {"train.response_tokens": 1, "method.options": {"x": 1}})
    found = judged(runs, "minillm-rouge")
    assert found.verdict == "holds" and all(test.seeds_measured for test in found.tests)


def test_an_ablation_does_not_stand_for_its_method(runs: Path) -> None:
    board(runs, {"minillm": 36, "sft": 30, "fkd": 30, "seqkd": 30})
    ablated = fakes.make_run(runs, "minillm", 1, level=10)
    fakes.edit(ablated / "summary.json", {"run.settings": "ablated"})
    found = judged(runs, "minillm-rouge")
    assert found.verdict == "not measured" and "several configurations of minillm" in found.reason
    fakes.edit(ablated / "summary.json", {"run.changes": ["teacher_mix=0"]})
    found = judged(runs, "minillm-rouge")
    assert found.verdict == "holds" and "minillm" in next(iter(found.students.values()))


def test_lost_score_files_leave_the_others(runs: Path) -> None:
    board(runs, {"minillm": 36, "sft": 30, "fkd": 30, "seqkd": 30}, prompts=60)
    lost = fakes.make_run(runs, "rkd", 1, prompts=60)
    for path in lost.rglob("scores.jsonl"):
        path.unlink()
    assert judged(runs, "minillm-long").verdict == "holds"


def test_a_pair_without_the_methods_is_no_pair(runs: Path) -> None:
    other = ModelRef(name="other", fingerprint="o" * 64, parameters=50_000)
    board(runs, {"minillm": 36, "sft": 30, "fkd": 30, "seqkd": 30})
    board(runs, {"akl": 36}, card={"student": other})
    assert judged(runs, "minillm-scales").verdict == "not measured"


def test_a_claim_about_all_pairs_needs_each(runs: Path) -> None:
    other = ModelRef(name="other", fingerprint="o" * 64, parameters=50_000)
    levels = {"minillm": 36, "sft": 30, "fkd": 30, "seqkd": 30}
    board(runs, levels)
    board(runs, levels | {"minillm": 30}, card={"student": other})
    found = judged(runs, "minillm-scales")
    assert found.verdict == "not significant" and len({test.pair for test in found.tests}) == 2
    assert len({runs for rows in found.students.values() for (runs,) in rows.values()}) == 8
    said = write(claims_document(judge_claims([runs], claim_book().only(["minillm-scales"]))), "md")
    assert said.count("Students (runs) of ") == 2, said
    first, second = judge_claims([runs], claim_book().only(["minillm-rouge"])).claims
    assert {first.verdict, second.verdict} == {"holds", "not significant"}


def test_verb_and_formats(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board(runs, {"minillm": 36, "sft": 30, "fkd": 30, "seqkd": 30})
    report = judge_claims([runs])
    document = claims_document(report)
    text, markdown = write(document, "terminal", width=110), write(document, "md")
    assert re.search("^holds +minillm-rouge ", text, re.MULTILINE) and "minillm - fkd" in text
    assert all(len(line) <= 110 for line in text.splitlines())
    assert "**holds**" in markdown and "minillm-rouge" in markdown
    for arguments, code in (
        (["claims", runs, "--only", "nonsense"], 2),
        (["claims", runs / "none"], 2),
        (["claims", "--runs-dir", runs, "--only", "dpkd", "--json"], 0),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([str(a) for a in arguments])
        assert int(caught.value.code or 0) == code
    document = json.loads(capsys.readouterr().out)
    assert [claim["claim"]["paper"] for claim in document["claims"]] == ["DPKD"] * 4
    with pytest.raises(InputError, match="no claim is called"):
        claim_book().only(["x"])


OWN = """
version: mine
claims:
  - id: long-answers
    paper: Mine
    where: everywhere
    says: dpkd answers at more length
    method: dpkd
    against: [sft]
    metric: response_tokens
    better: higher
    tasks: [dolly]
  - id: judged
    paper: Mine
    where: nowhere
    says: a judge prefers it
    method: dpkd
    against: [sft]
    metric: judge_win_rate
    better: higher
    tasks: [dolly]
"""


def test_claims_of_the_users_own_file_are_judged(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board(runs, {"dpkd": 36, "sft": 30})
    own = tmp_path / "claims.yaml"
    own.write_text(OWN.replace("response_tokens", "rouge_l"))
    assert verb("claims", runs, "--claims", own, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["version"] == "mine"
    verdicts = {claim["claim"]["id"]: claim["verdict"] for claim in document["claims"]}
    assert verdicts == {"long-answers": "holds", "judged": "not measured"}
    assert "kdbench judge" in document["claims"][1]["reason"]
    own.write_text(OWN.replace("rouge_l", "response_tokens"))
    assert verb("claims", runs, "--claims", own, "--only", "long-answers", "--json") == 0
    (claim,) = json.loads(capsys.readouterr().out)["claims"]
    assert claim["verdict"] == "not significant", "equal lengths"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (OWN.replace("better: higher", "better: sideways"), "claims.0.better"),
        (OWN.replace("against: [sft]", "against: []"), "claims.0.against"),
        (OWN.replace("paper: Mine", "paper: [Mine"), "not valid YAML"),
        ("- a list", "must be a mapping"),
        (OWN.replace("says:", "claims:"), "claims.0"),
    ],
)
def test_a_malformed_file_of_claims_is_refused_in_a_sentence(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    board(runs, {"dpkd": 36})
    own = tmp_path / "claims.yaml"
    own.write_text(text)
    assert verb("claims", runs, "--claims", own) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and str(own) in error and "\n" not in error
    assert verb("claims", runs, "--claims", "claims-v0") == 2
    assert "did you mean claims-v1" in capsys.readouterr().err


def verb(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(a) for a in arguments])
    return int(caught.value.code or 0)
