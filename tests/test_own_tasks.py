"""A user's rows as a task, and answers of other systems on a board."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
from chat_styles import STYLES

from kdbench.harness import cli
from kdbench.harness.data.chat import rendered
from kdbench.harness.data.examples import Example
from kdbench.harness.data.outputs import matched, read_answers, row_ids
from kdbench.harness.data.places import place_of
from kdbench.harness.data.tables import read_table
from kdbench.harness.data.understood import Reading, of_table
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.names import asked_tasks
from kdbench.harness.files.records import Estimate, Missing, Summary
from kdbench.harness.files.run_folder import Evaluation, RunFolder
from kdbench.harness.own.tasks import task_rows
from kdbench.harness.questions import prepared
from kdbench.harness.resolve import resolve
from kdbench.tasks.catalogue import task_examples
from kdbench.tasks.protocols import get_protocol
from kdbench.tasks.translation import Corpus, bleu_words
from kdbench.tasks.words import fitting

ROWS = 12
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A command line in this process: its exit code and all that it printed."""

    def command(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([str(each) for each in arguments])
        return int(caught.value.code or 0), "".join(capsys.readouterr())

    return command


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def parts(example: Example) -> dict[str, Any]:
    return {
        "instruction": example.instruction,
        "input": example.input,
        "category": example.category,
    }


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The first rows of the world's dolly, as instructions and as chats."""
    examples = task_examples("dolly", "mini-test", limit=ROWS)
    own, chats = tmp_path / "own.jsonl", tmp_path / "chats.json"
    own.write_text(lines([{**parts(e), "output": list(e.references)} for e in examples]))
    said = [
        [
            {"role": "user", "content": e.instruction},
            {"role": "assistant", "content": e.references[0]},
        ]
        for e in examples
        if not e.input
    ]
    chats.write_text(json.dumps([{"messages": chat} for chat in said]))
    return {"own": own, "chats": chats}


def evaluated(run: Run, files: dict[str, Path], runs: Path, tasks: str, *more: object) -> RunFolder:
    """The truth of the world, asked a task of the suite's and files."""
    code, said = run(
        *("eval", "--suite", "mini-test", "--model", "truth", "--limit", ROWS, "--runs-dir", runs),
        *("--tasks", tasks, "--set", "generate.seeds=[10,20]", *more),
    )
    assert code == 0, said
    (folder,) = runs.glob("eval-truth-*")
    return RunFolder(folder)


def of_task(folder: RunFolder, task: str) -> Evaluation:
    (found,) = (each for each in folder.evaluations() if each.task == task)
    return found


def metrics(summary: Summary, task: str) -> dict[str, Estimate | Missing]:
    (found,) = (each.metrics for each in summary.scores.values() if each.task == task)
    return found


def test_an_own_file_scores_as_the_suites_own_task_does_to_the_digit(
    run: Run, files: dict[str, Path], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    folder = evaluated(run, files, runs, f"dolly,{files['own']},talk={files['chats']}")
    suite, own = of_task(folder, "dolly"), of_task(folder, "own")
    for seed in (10, 20):
        assert suite.samples_file(seed).read_bytes() == own.samples_file(seed).read_bytes()
    summary = folder.summary.read()
    theirs, mine = metrics(summary, "dolly"), metrics(summary, "own")
    assert {name: mine[name] for name in theirs} == theirs
    talked = {row.prompt: row.response for row in of_task(folder, "talk").samples(10)}
    assert talked and talked.items() <= {r.prompt: r.response for r in suite.samples(10)}.items()
    # all answers together as sacrebleu has them, and each for pairs
    answers = of_task(folder, "own").samples(10)
    texts = [row.response for row in answers]
    streams = [[row.references[0] for row in answers]]
    bleu, chrf = mine["bleu"], mine["chrf"]
    assert isinstance(bleu, Estimate) and isinstance(chrf, Estimate)
    if all(len(row.references) == 1 for row in answers):
        assert bleu.per_seed[0] == pytest.approx(sacrebleu.corpus_bleu(texts, streams).score)
        assert chrf.per_seed[0] == pytest.approx(sacrebleu.corpus_chrf(texts, streams).score)
    assert bleu.low <= bleu.mean <= bleu.high
    assert {"bleu_prompt", "chrf_prompt"} <= set(own.scores()[0].metrics)
    code, said = run("leaderboard", runs, "--format", "md")
    assert code == 0 and "chrF" in said and "own[file:12]" in said


def test_answers_of_another_system_stand_beside_a_run_and_are_marked(
    run: Run, files: dict[str, Path], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    folder = evaluated(run, files, runs, str(files["own"]))
    asked = of_task(folder, "own").samples(10)
    outs = tmp_path / "gpt.json"
    outs.write_text(json.dumps([row.response for row in asked]))
    base = ("score", "--references", files["own"], "--runs-dir", runs, "--beside", folder.path)
    code, said = run(*base, "--outputs", outs)
    assert code == 0, said
    assert "gpt (outside)" in said and "matched by position" in said
    (made,) = map(RunFolder, runs.glob("outside-gpt-*"))
    summary = made.summary.read()
    (theirs,), (mine,) = summary.scores.values(), folder.summary.read().scores.values()
    assert theirs.column == mine.column and summary.run.division == "outside"
    rouge, known = theirs.metrics["rouge_l"], mine.metrics["rouge_l"]
    assert isinstance(rouge, Estimate) and isinstance(known, Estimate)
    assert rouge.mean == pytest.approx(known.per_seed[0])
    assert isinstance(theirs.metrics["response_tokens"], Missing)
    # the same again, by the samples of a run; other answers need another name; scored again
    assert run(*base, "--outputs", outs)[0] == 0
    samples = of_task(folder, "own").samples_file(20)
    code, said = run(*base, "--outputs", samples, "--name", "gpt")
    assert code == 2 and "give these another --name" in said
    code, said = run(*base, "--outputs", samples, "--name", "again")
    assert code == 0 and "matched by id" in said
    before = made.summary.path.read_bytes()
    assert run("score", made.path)[0] == 0 and made.summary.path.read_bytes() == before
    code, said = run("leaderboard", runs, "--format", "md")
    assert code == 0 and "again (outside)" in said
    code, said = run("judge", made.path, folder.path, "--tasks", "own", "--dry-run")
    assert code == 0, said
    code, said = run("compare", "gpt", "again", "--runs-dir", runs, "--task", "own")
    assert code == 0, said


def test_of_several_evaluations_of_the_same_rows_one_is_named(
    run: Run, files: dict[str, Path], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    folder = evaluated(run, files, runs, str(files["own"]), "--set", "generate.greedy=true")
    outs = tmp_path / "gpt.json"
    outs.write_text(json.dumps(["a"] * ROWS))
    base = ("score", "--runs-dir", runs, "--beside", folder.path, "--outputs", outs)
    code, said = run(*base, "--references", files["own"])
    assert code == 2 and "(strict)" in said and "(strict-greedy)" in said
    assert "name one of them by --evaluation" in " ".join(said.split())
    code, said = run(*base, "--references", files["own"], "--evaluation", "strict-greedy")
    assert code == 0, said
    (made,) = map(RunFolder, runs.glob("outside-gpt-*"))
    (scores,) = made.summary.read().scores.values()
    assert scores.protocol == "strict-greedy"
    rows = [json.loads(line) for line in files["own"].read_text().splitlines()]
    other = tmp_path / "other.jsonl"  # the same references of other questions
    other.write_text(lines([{**row, "instruction": "another question"} for row in rows]))
    code, said = run(*base, "--references", other)
    assert code == 2 and "has no finished evaluation of the rows" in said


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        (["a"] * 3, "holds 3 answers, and the references are 2 rows"),
        ([{"id": "x", "output": "a"}] * 2, "answers row 'x' twice"),
        ([{"id": "x", "output": "a"}, {"id": "z", "output": "a"}], "answers a row 'z'"),
        ([{"id": "x", "output": "a"}], r"no answer to 1 of 2 rows \(the first is row 2\)"),
        (
            [{"instruction": "B?", "output": "a"}, {"instruction": "A?", "output": "b"}],
            "row 1, answers 'B\\?', which is not what row 1",
        ),
        ([{"id": "x", "output": 1}] * 2, "output must be a text, not int"),
        (
            [{"left": "a"}],
            "none of which holds answers by its name; say which does by --answer-column",
        ),
        ([{"id": "x", "question": "B?", "output": "a"}] * 2, "twice"),
        (
            [{"id": "y", "question": "A?", "output": "a"}, {"id": "x", "output": "b"}],
            "row 1, answers 'A\\?', which is not what row 2 of the references asks; repair its id",
        ),
        (
            [{"output": "a", "response": "b"}],
            "several .* output, response; say which .* --answer-column",
        ),
        ([{"prediction": "a", "resps": ["b"]}], "several columns .* prediction, resps"),
    ],
)
def test_answers_that_do_not_fit_are_one_sentence(
    answers: list[Any], says: str, run: Run, tmp_path: Path
) -> None:
    outs, refs = tmp_path / "outs.json", tmp_path / "refs.jsonl"
    outs.write_text(json.dumps(answers))
    refs.write_text(
        lines([{"id": i, "question": q, "answer": "a"} for i, q in (("x", "A?"), ("y", "B?"))])
    )
    code, said = run("score", "--outputs", outs, "--references", refs, "--runs-dir", tmp_path / "r")
    assert code == 2
    assert re.search(says, " ".join(said.split())), said


GOLD = [{"instruction": f"question {i}", "output": f"gold {i}"} for i in range(3)]


def test_gold_answers_beside_the_predictions_are_not_scored(run: Run, tmp_path: Path) -> None:
    outs, refs = tmp_path / "outs.jsonl", tmp_path / "refs.jsonl"
    refs.write_text(lines(GOLD))
    outs.write_text(lines([{**row, "Prediction": "mine", "draft": "d"} for row in GOLD]))
    base = ("score", "--outputs", outs, "--references", refs, "--runs-dir", tmp_path / "runs")
    code, said = run(*base)
    assert code == 0 and "answers: column Prediction; not read: output, draft" in said
    (made,) = map(RunFolder, (tmp_path / "runs").glob("outside-outs-*"))
    (evaluation,) = made.evaluations()
    assert {row.response for row in evaluation.samples(0)} == {"mine"}
    code, said = run(*base, "--answer-column", "draft", "--name", "draft")
    assert code == 0 and "answers: column draft; not read: output, Prediction" in said
    code, said = run(*base, "--answer-column", "drafts", "--name", "other")
    assert code == 2 and "did you mean draft" in " ".join(said.split())
    empty = tmp_path / "empty.jsonl"  # a model that said nothing is not given the gold answers
    empty.write_text(lines([{**row, "prediction": ""} for row in GOLD]))
    assert {each.text for each in read_answers(str(empty)).given} == {""}


def test_answers_are_matched_by_what_they_repeat(tmp_path: Path) -> None:
    refs, outs = tmp_path / "refs.jsonl", tmp_path / "outs.csv"
    order = (2, 0, 1)
    refs.write_text(lines([{"id": i, **GOLD[i]} for i in order]))
    answers = [
        f"{row},{seed},question {i},answer {i}" for seed in (10, 20) for row, i in enumerate(order)
    ]
    outs.write_text("doc_id,seed,prompt,response\n" + "\n".join(answers) + "\n")
    table = read_table(place_of(str(refs)), "test")
    assert table is not None
    found = of_table(str(refs), table, Reading())
    given = read_answers(str(outs)).given
    got = matched(given, found.examples, row_ids(table.rows), found.rows, "outs")
    assert got.by_seed == {
        seed: dict(enumerate(("answer 2", "answer 0", "answer 1"))) for seed in (10, 20)
    }
    assert got.how == "by id"


def test_files_of_one_name_are_told_apart() -> None:
    with pytest.raises(InputError, match=r"given twice; call files .* as in test2=b/test\.jsonl"):
        asked_tasks(["a/test.jsonl", "b/test.jsonl"])
    with pytest.raises(InputError, match="given twice; name each task once"):
        asked_tasks(["dolly", "dolly"])
    assert [task.name for task in asked_tasks(["a/test.jsonl", "test2=b/test.jsonl"])] == [
        "test",
        "test2",
    ]


def test_a_chat_is_asked_by_the_students_own_template(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    chat = [("system", "Be brief."), ("user", "A?"), ("assistant", "a"), ("user", "B?")]
    said = [{"role": role, "content": text} for role, text in (*chat, ("assistant", "b"))]
    path.write_text(lines([{"messages": said}]))
    config = resolve(suite="mini-test", method="sft", assignments=["tasks.limit=1"])
    found = task_rows(str(path), config)
    protocol = get_protocol("strict")
    for name in ("chatml", "llama 3, with the date", "zephyr"):
        tokenizer = STYLES[name].tokenizer()
        task = prepared(
            found.examples,
            task="chats",
            edition="file",
            protocol=protocol,
            tokenizer=tokenizer,
            template="chat",
            source="file",
        )
        (doc,) = task.docs
        assert doc.prompt == rendered(tokenizer, said[:-1]) == tokenizer.decode(doc.ids)
        assert doc.references == ("b",)
    path.write_text(lines([{"text": "Eelgrass grows."}]))
    with pytest.raises(InputError, match="plain text, which asks nothing"):
        task_rows(str(path), config)


def test_answers_in_other_scripts_are_scored_by_words_of_theirs(run: Run, tmp_path: Path) -> None:
    outs, refs = tmp_path / "outs.jsonl", tmp_path / "refs.jsonl"
    refs.write_text(lines([{"question": "你好", "answer": "红色的河流"}] * 2))
    outs.write_text(lines([{"response": "红色的石头"}, {"response": "红色的河流"}]))
    code, said = run(
        *("score", "--outputs", outs, "--references", refs, "--runs-dir", tmp_path, "--json")
    )
    assert code == 0, said
    (made,) = map(RunFolder, tmp_path.glob("outside-outs-*"))
    (scores,) = made.summary.read().scores.values()
    rouge = scores.metrics["rouge_l"]
    assert isinstance(rouge, Estimate) and rouge.mean == pytest.approx(80.0)
    assert "rouge_tokenizer=unicode" in scores.scorer
    assert of_task(made, "refs").scored.info()["bleu_words"] == "zh"


def test_corpus_values_are_sacrebleus() -> None:
    references = [["the red house", "a red house"], ["green stone"], ["a b c d e"]]
    answers = ["the red house", "green river", "a b c"]
    corpus = Corpus(references)
    streams = [["the red house", "green stone", "a b c d e"], ["a red house", None, None]]
    counts = corpus.statistics("bleu", answers)
    assert corpus.whole("bleu", counts) == pytest.approx(
        sacrebleu.corpus_bleu(answers, streams).score
    )
    each = corpus.each("chrf", corpus.statistics("chrf", answers))
    pairs = zip(answers, references, strict=True)
    assert each == pytest.approx([sacrebleu.sentence_chrf(a, r).score for a, r in pairs])


def test_words_fit_the_script() -> None:
    assert (
        fitting(["A café in the house, where people drink."] + ["plain words here"] * 5) == "rouge"
    )
    assert fitting(["Die Größe der Häuser überrascht."]) == "unicode"
    assert fitting(["Красный камень"]) == "unicode" == fitting(["赤い石"])
    assert [bleu_words([t]) for t in ("a b", "красный", "红色的石头", "赤い石です", "สวัสดี")] == [
        *("13a", "13a", "zh", "char", "char")
    ]


def test_the_truth_is_not_asked_a_file_that_methods_are_compared_on(
    run: Run, tmp_path: Path
) -> None:
    """It knows its own world only; a run of the world with a task of one's own had ended at it, trained."""
    own, runs = tmp_path / "own.jsonl", tmp_path / "runs"
    own.write_text(lines([{"instruction": "What is 2 plus 2?", "output": "4"}] * 3))
    short = ("--set", "train.steps=1", "--set", "init_sft.steps=1", "--set", "train.eval_every=0")
    code, said = run(
        *("run", "--suite", "mini-test", "--method", "sft", "--limit", 4, "--runs-dir", runs),
        *("--tasks", f"dolly,{own}", "--quiet", *short),
    )
    assert code == 0, said
    asked = {
        folder.name.split("-mini")[0].rpartition("-")[0]: {
            e.task for e in RunFolder(folder).evaluations()
        }
        for folder in runs.iterdir()
        if folder.is_dir()
    }
    assert asked["eval-truth"] == {"dolly"} and asked["eval-teacher"] == {"dolly", "own"}
