"""A teacher behind an OpenAI-compatible endpoint: asked once, kept, paid for, and refused what it has not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from endpoint_teacher import command
from judge_server import Action, JudgeServer, failure, say

from kdbench.harness.endpoints import place_of
from kdbench.harness.errors import InputError
from kdbench.harness.files.run_folder import JudgeFolder, RunFolder
from kdbench.harness.judge.verdict_log import VerdictLog
from kdbench.tasks import mini

Kdbench = Callable[..., tuple[int, str, str]]
KEY = "sk-of-the-teacher-0123456789"
PRICED = {"prices": {"input": 10, "output": 100, "date": "2026-11-01"}}


@pytest.fixture
def train(
    tmp_path: Path, kdbench: Kdbench, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, RunFolder]]:
    """Trains a tiny student for two steps on a teacher's answers; its cache is this test's alone."""
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def run(
        server: JudgeServer, *more: str, method: str = "seqkd", **endpoint: Any
    ) -> tuple[int, str, RunFolder]:
        asked = command(server.url, tmp_path, tmp_path / "runs", method, **endpoint)
        code, _, err = kdbench(*asked, *more)
        found = sorted((tmp_path / "runs").glob(f"{method}-*"))
        return code, err, RunFolder(found[0] if found else tmp_path / "runs" / "none")

    return run


def words(body: dict[str, Any], number: int) -> Action:
    """Some words of the question, as the student's tokenizer has them."""
    return say(" ".join(body["messages"][-1]["content"].split()[:5]), usage=(20, 5))


def asked_log(tmp_path: Path) -> VerdictLog:
    (folder,) = (tmp_path / "cache").glob("teacher-asked/*")
    return VerdictLog(JudgeFolder(folder))


@pytest.mark.parametrize("method", ["seqkd", pytest.param("plad", marks=pytest.mark.slow)])
def test_a_student_learns_from_answers_alone(
    method: str, train: Callable[..., Any], tmp_path: Path
) -> None:
    with JudgeServer(words) as server:
        code, err, run = train(server, method=method, **PRICED)
        assert code == 0, err
        asked = list(server.requests)
        assert len(asked) == (8 if method == "seqkd" else 11)  # one row is held out
        body = asked[0]
        assert body["model"] == "tiny-teacher" and body["temperature"] == 1.0
        assert [m["role"] for m in body["messages"]] == ["user"]
        assert body["max_completion_tokens"] == 32
        assert set(server.authorizations) == {f"Bearer {KEY}"}
        info = run.training.stage.info()["endpoint"]
        assert info["answers"] == len(asked) and info["cost"] == pytest.approx(
            len(asked) * (20 * 10 + 5 * 100) / 1e6
        )
        assert f"{len(asked)} answers" in err and "USD" in err
        assert run.config.read().tree()["pair"]["teacher"].endswith("#tiny-teacher")
        # another seed learns from the same answers, where it has the same prompts
        assert train(server, "--seed", "11", method=method, **PRICED)[0] == 0
        assert len(server.requests) < 2 * len(asked) and set(server.distinct().values()) == {1}
        # what decides how our own models answer decides nothing here, and is not paid for
        again = ("--set", "generate.batch_size=3", "--set", "train.sample_precision=fp32")
        before = len(server.requests)
        assert train(server, *again, method=method, **PRICED)[0] == 0
        assert len(server.requests) == before
    everything = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(everything) > 20 and not any(KEY.encode() in f.read_bytes() for f in everything)


def test_answers_become_the_students_tokens(train: Callable[..., Any], tmp_path: Path) -> None:
    replies = ["<think>Hm.</think> Yes .", "", "cut"]

    def script(body: dict[str, Any], number: int) -> Action:
        return say(replies[number % 3], finish="length" if number % 3 == 2 else "stop")

    with JudgeServer(script) as server:
        code, err, _ = train(server, concurrency=1)
    assert code == 0, err
    (file,) = (tmp_path / "cache").glob("teacher-answers/*/answers.jsonl")
    rows = [json.loads(line)["response"] for line in file.read_text().splitlines()]
    log = asked_log(tmp_path)
    states = sorted(row.state for row in log._verdicts.values())
    assert states == ["ok"] * 3 + ["truncated"] * 2 + ["unparsed"] * 3
    end = mini.build_tokenizer().eos_token_id
    assert sum(row == [end] for row in rows) == 3
    assert sum(row[-1] == end and len(row) > 1 for row in rows) == 3
    assert sum(end not in row for row in rows) == 2
    assert "3 of 8 answers of teacher tiny-teacher are empty (0 refused)" in err


def test_answers_that_were_cut_while_thinking_are_said_and_refused_where_most_are(
    train: Callable[..., Any],
) -> None:
    thinking = say("<think>It may be", finish="length")

    def some(body: dict[str, Any], number: int) -> Action:
        return thinking if number % 8 < 4 else words(body, number)

    with JudgeServer(some) as server:
        code, err, _ = train(server, concurrency=1)
    assert code == 0, err
    assert "4 of 8 answers of teacher tiny-teacher were cut before they said anything" in err
    with JudgeServer(lambda body, number: thinking) as server:
        code, err, _ = train(server)
    assert code == 2 and "8 of 8 answers" in err and "turn thinking off" in err


def test_what_failed_is_asked_again_and_nothing_else(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    broken = True

    def script(body: dict[str, Any], number: int) -> Action:
        return failure(500, "overloaded") if broken and number >= 5 else words(body, number)

    with JudgeServer(script) as server:
        code, err, _ = train(server, concurrency=1)
        assert code == 2 and "Traceback" not in err
        assert "gave 5 of 8 answers, which are kept: 3 calls in a row failed" in err
        assert "the same command asks for the rest" in err
        broken, before = False, len(server.requests)
        code, err, _ = train(server, concurrency=1)
        assert code == 0 and "teacher tiny-teacher: 8 answers" in err
        assert len(server.requests) - before == 3
    assert len(asked_log(tmp_path)) == 8


@pytest.mark.parametrize("which", [0, 5])
def test_a_row_that_the_endpoint_never_takes_is_named(
    which: int, train: Callable[..., Any], tmp_path: Path
) -> None:
    unfit: set[str] = set()

    def script(body: dict[str, Any], number: int) -> Action:
        question = body["messages"][-1]["content"]
        if number == which:
            unfit.add(question)
        return failure(400, "too long") if question in unfit else words(body, number)

    with JudgeServer(script) as server:
        code, err, _ = train(server, concurrency=1)
        if which:  # the very first one may be any request's fault
            assert code == 2 and "gave 7 of 8 answers" in err
            for _ in range(2):  # and it stays the one that is named
                assert "1 refused for what it was asked" in err
                assert next(iter(unfit))[:20] in err and "take these rows out" in err
                code, err, _ = train(server, concurrency=1)
        else:
            assert code == 2 and "refused the first call (400): too long" in err


def test_refusals_and_limits_say_which_setting(train: Callable[..., Any]) -> None:
    with JudgeServer(lambda body, number: failure(401, "no such key")) as server:
        code, err, _ = train(server)
        assert code == 2 and len(server.requests) == 1
        assert "refused the first call (401)" in err and "endpoint.key_env" in err
    with JudgeServer(words) as server:
        code, err, _ = train(server, concurrency=1, max_cost=0.006, **PRICED)
        assert code == 2 and "could cross endpoint.max_cost" in err
        assert 0 < len(server.requests) < 8
        code, err, _ = train(server, max_cost=1)
        assert code == 2 and "max_cost needs prices" in err


def test_what_needs_weights_is_refused_before_anything_is_asked(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    with JudgeServer(words) as server:

        def refused(sentence: str, *more: str, method: str = "seqkd") -> None:
            code, err, _ = train(server, *more, method=method)
            assert code == 2 and sentence in " ".join(err.split()), err

        refused("method fkd as it is set reads the teacher's probabilities", method="fkd")
        refused("needs no more (seqkd, plad)", method="minillm")
        refused("seqkd as it is set reads", "--set", "method.word_kd=0.5")
        refused("plad as it is set reads", "--set", "method.form=margin", method="plad")
        refused("has no layers and no tokenizer", "--student", "prune:2")
        refused("cannot be measured against", "--set", "tasks.probes=[exposure]")
        refused("give it as https://host/v1#model", "--teacher", str(tmp_path / "student"))
        refused("names no model", "--teacher", "https://host/v1")
        assert not server.requests and not (tmp_path / "cache" / "teacher-answers").exists()


def test_an_endpoint_has_one_spelling_and_hides_nothing() -> None:
    assert place_of("HuggingFaceTB/SmolLM2") is place_of("./https") is None
    assert place_of("HTTPS://Host:8000/v1/#org/m") == ("https://host:8000/v1", "org/m")
    with pytest.raises(InputError, match="must not hold a user, password or query") as caught:
        place_of("https://me:secret@host/v1#m")
    assert "secret" not in str(caught.value)
