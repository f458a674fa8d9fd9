"""The door to lm-eval: prompts, the sample sink, resume, stock tasks."""

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import resolve_max_length
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.evaluate import Answerer, answering_model, collect
from kdbench.harness.files.records import DecodingRecord, ModelRef, SampleRow, ScoreRow
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.files.store import read_records
from kdbench.harness.lm.answers import AnswersLM
from kdbench.harness.lm.likelihoods import ModelLM, evaluate_stock
from kdbench.harness.lm.tasks import metric_cards, undisturbed
from kdbench.harness.questions import PreparedTask, PromptDoc, Response
from kdbench.harness.text_model import TextModel, cut_at
from kdbench.tasks.catalogue import YAML_FOLDER
from kdbench.tasks.protocols import MINILLM_COMPAT, STRICT
from kdbench.tasks.scoring import score_rows
from kdbench.trainers.engine import LoadedModel
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.types import Answer, Decoding
from tests.support.prompts import prepare_task

WORDS = ("red", "green", "blue", "dog", "cat", "runs", "sleeps")
CHUNK = 4


class Killed(Exception):
    """Stands for a process that dies."""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens: any text, no unknowns."""
    core = Tokenizer(models.BPE(vocab={chr(i): i for i in range(256)}, merges=[]))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(alphabet)} | {"<end>": 256}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    from tokenizers import decoders

    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """Ten made-up rows of dolly; row 3 is far over any limit, rows 1 and 6 ask the same."""
    folder = tmp_path / "data/dolly"
    folder.mkdir(parents=True)
    rows = [
        {
            "instruction": f"Say word {i if i != 6 else 1}." + " again" * 300 * (i == 3),
            "input": "with care" if i % 2 == 0 else "",
            "output": [WORDS[i % 7], f"{WORDS[i % 7]} {WORDS[(i + 1) % 7]} ∞ x"],
            "topic": "words",
        }
        for i in range(10)
    ]
    rows[6]["input"] = ""
    (folder / "valid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


def prepare(
    data_folder: Path, tokenizer: PreTrainedTokenizerFast, **changes: object
) -> PreparedTask:
    wanted = {
        "protocol": STRICT.limited(max_prompt=400, max_length=420),
        "tokenizer": tokenizer,
        "template": "alpaca",
        "data_dir": data_folder,
    }
    return prepare_task("dolly", "full", **{**wanted, **changes})  # type: ignore[arg-type]


def fake(
    calls: list[list[int]] | None = None, die_after: int | None = None
) -> Callable[[Sequence[PromptDoc], int], Iterator[list[Response]]]:
    """Answers made of words that depend on key and seed only, as the sampler's do."""

    def answer(requests: Sequence[PromptDoc], seed: int) -> Iterator[list[Response]]:
        if calls is not None:
            calls.append([request.doc_id for request in requests])
        for chunk, start in enumerate(range(0, len(requests), CHUNK)):
            if chunk == die_after:
                raise Killed
            yield [respond(request, seed) for request in requests[start : start + CHUNK]]

    return answer


def respond(request: PromptDoc, seed: int) -> Response:
    dice = random.Random(request.key * 1000 + seed)
    words = dice.choices(WORDS, k=dice.randrange(1, 5))
    return Response(" ".join(words) + dice.choice(["", ".", " ∞\n", "\u2028"]), len(words), True)


class Generated(NamedTuple):
    """What one decoding seed gave."""

    path: Path
    rows: list[SampleRow]
    generated: int


def generate(
    answer: Answerer,
    prepared: PreparedTask,
    *,
    seed: int,
    out: Path,
    chunk: int,
    on_progress: Callable[[int], None] | None = None,
) -> Generated:
    path = Evaluation(out).samples_file(seed)
    found = collect(path, prepared.docs, answer, seed=seed, chunk=chunk, on_progress=on_progress)
    return Generated(path, found.rows, found.generated)


# --- prompts


def test_strict_drops_and_compat_cuts(
    data_folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    strict = prepare(data_folder, tokenizer)
    assert [doc.doc_id for doc in strict.docs] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert (strict.counts.rows, strict.counts.dropped) == (10, 1)
    compat = prepare(
        data_folder, tokenizer, protocol=MINILLM_COMPAT.limited(max_prompt=400, max_length=420)
    )
    assert len(compat.docs) == 10
    assert (compat.counts.dropped, compat.counts.prompts_cut) == (0, 1)
    assert compat.data_sha256 == strict.data_sha256
    assert strict.docs[1].key == strict.docs[5].key  # equal prompts, equal noise
    assert strict.docs[0].reference_tokens == len("red")
    limited = prepare(data_folder, tokenizer, limit=4)
    assert (limited.edition, len(limited.docs), limited.counts.dropped) == ("full:4", 3, 1)


# --- generation through lm-eval


def test_lm_eval_aggregates_what_the_stored_samples_score(
    data_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    progress: list[int] = []
    prepared = prepare(data_folder, tokenizer)
    result = generate(
        fake(), prepared, seed=10, out=tmp_path / "out", chunk=CHUNK, on_progress=progress.append
    )
    stored = read_records(tmp_path / "out/samples.seed10.jsonl", SampleRow)
    assert stored == result.rows
    assert progress == [4, 8, 9]
    assert result.generated == len(stored) == len(prepared.docs) == 9
    # our task's file in plain lm-eval, answered by what is stored
    asked: list[str] = []

    def answers(requests: list[Instance]) -> list[str]:
        asked.extend(request.args[0] for request in requests)
        return [row.response for row in stored]

    rows = [
        {"doc_id": d.doc_id, "prompt": d.prompt, "references": list(d.references)}
        for d in prepared.docs
    ]
    with undisturbed():
        manager = TaskManager(
            include_path=str(YAML_FOLDER), include_defaults=False, metadata={"rows": rows}
        )
        loaded = manager.load(["kdbench_dolly_full"])
        found = evaluate(AnswersLM(answers), loaded, bootstrap_iters=0, log_samples=False)
    assert asked == [doc.prompt for doc in prepared.docs]
    theirs = found["results"]["kdbench_dolly_full"]
    scored = score_rows(stored)
    for metric in ("rouge_l", "exact_match"):
        ours = sum(row.metrics[metric][0] for row in scored) / len(scored)
        assert theirs[f"{metric},none"] == pytest.approx(ours, abs=1e-12)
    assert 0 < theirs["rouge_l,none"] < 100


def test_generation_leaves_global_generators_alone(
    data_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[union-attr]
    prepared = prepare(data_folder, tokenizer)
    generate(fake(), prepared, seed=10, out=tmp_path, chunk=CHUNK)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[union-attr]
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("die_after", [0, 1, 2])
def test_a_killed_generation_continues_to_the_same_bytes(
    data_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, die_after: int
) -> None:
    prepared = prepare(data_folder, tokenizer)
    whole = generate(fake(), prepared, seed=10, out=tmp_path / "a", chunk=CHUNK)
    with pytest.raises(Killed):
        generate(fake(die_after=die_after), prepared, seed=10, out=tmp_path / "b", chunk=CHUNK)
    calls: list[list[int]] = []
    again = generate(fake(calls), prepared, seed=10, out=tmp_path / "b", chunk=CHUNK)
    assert calls == [[doc.doc_id for doc in prepared.docs[die_after * CHUNK :]]]
    assert again.generated == 9 - die_after * CHUNK
    assert again.path.read_bytes() == whole.path.read_bytes()
    assert score_rows(again.rows) == score_rows(whole.rows)


@pytest.mark.parametrize("kept_bytes", [1, 200, 1500, 3000, -1, -200])
def test_what_a_kill_leaves_at_any_byte_is_made_good(
    data_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, kept_bytes: int
) -> None:
    prepared = prepare(data_folder, tokenizer)
    whole = collect(tmp_path / "a.jsonl", prepared.docs, fake(), seed=10, chunk=CHUNK)
    content = (tmp_path / "a.jsonl").read_bytes()
    torn = tmp_path / "b.jsonl"
    torn.write_bytes(content[:kept_bytes])
    again = collect(torn, prepared.docs, fake(), seed=10, chunk=CHUNK)
    assert torn.read_bytes() == content
    assert again.rows == whole.rows
    # what was stored in whole chunks is not asked for again
    assert again.generated % CHUNK == 9 % CHUNK
    calls: list[list[int]] = []
    assert collect(torn, prepared.docs, fake(calls), seed=10, chunk=CHUNK).generated == 0
    assert calls == []


def test_samples_of_other_prompts_are_refused(
    data_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    prepared = prepare(data_folder, tokenizer)
    path = tmp_path / "a.jsonl"
    collect(path, prepared.docs, fake(), seed=10, chunk=CHUNK)
    before = path.read_bytes()
    for docs, seed in ((prepared.docs, 20), (prepared.docs[1:], 10), (prepared.docs[:5], 10)):
        with pytest.raises(InputError, match="move it away"):
            collect(path, docs, fake(), seed=seed, chunk=CHUNK)
    assert path.read_bytes() == before


def test_a_model_that_breaks_the_contract_is_a_bug(
    data_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    prepared = prepare(data_folder, tokenizer)

    def short(requests: Sequence[PromptDoc], seed: int) -> Iterator[list[Response]]:
        yield [respond(request, seed) for request in requests[:2]]

    def early(requests: Sequence[PromptDoc], seed: int) -> Iterator[list[Response]]:
        yield [respond(request, seed) for request in requests[:CHUNK]]

    with pytest.raises(RuntimeError, match="2 answers to 4 prompts"):
        collect(tmp_path / "a.jsonl", prepared.docs, short, seed=10, chunk=CHUNK)
    with pytest.raises(RuntimeError, match="stopped after 4 of 9"):
        collect(tmp_path / "b.jsonl", prepared.docs, early, seed=10, chunk=CHUNK)


# --- a model behind the door


def gpt2(positions: int = 128) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=260, n_positions=positions, n_embd=32, n_layer=2, n_head=2)
    return GPT2LMHeadModel(config).eval()


def llama(positions: int = 128) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
    )
    return LlamaForCausalLM(config).eval()


def text_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    width: int = 257,
    *,
    end: int = 256,
    batch_size: int = 3,
    dtype: torch.dtype | None = None,
) -> TextModel:
    engine = LoadedModel(
        model=model,
        vocabulary=Vocabulary(size=width, eos_ids=(end,), pad_id=256),
        batch_size=batch_size,
        chunk=CHUNK,
        sampling_dtype=dtype,
    )
    return TextModel(engine, tokenizer)


def instances(kind: str, *arguments: tuple[object, ...]) -> list[Instance]:
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [gpt2, llama])
def test_likelihoods_equal_lm_evals_own_model(
    make: Callable[[int], PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make(64)
    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)  # finds the length itself
    ours = ModelLM(text_model(model, tokenizer, model.config.vocab_size))
    pairs = instances(
        "loglikelihood",
        ("The sky is", " blue"),
        ("The sky is", " b"),
        ("The sky is", " g"),
        ("", "No context"),
        ("trailing space ", "word"),
        ("long " * 30, "answer of some length"),
    )
    expected, got = peer.loglikelihood(pairs, disable_tqdm=True), ours.loglikelihood(pairs)
    assert [g for _, g in got] == [g for _, g in expected]
    assert [p for p, _ in got] == pytest.approx([p for p, _ in expected], abs=1e-3)
    texts = instances("loglikelihood_rolling", ("A text longer than the context. " * 6,), ("x",))
    assert ours.loglikelihood_rolling(texts) == pytest.approx(
        peer.loglikelihood_rolling(texts, disable_tqdm=True), abs=1e-2
    )


@pytest.fixture
def stock_folder(tmp_path: Path, dataset_cache: None) -> Path:
    """A local multiple-choice task, as a third party would bring it."""
    rows = [
        {"question": "The sky is", "choices": ["blue", "loud"], "gold": 0},
        {"question": "Grass is", "choices": ["green", "square"], "gold": 1},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "own_choice.yaml").write_text(
        "task: own_choice\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: question\ndoc_to_target: gold\ndoc_to_choice: choices\n"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
        "metadata: {version: 3.0}\n"
    )
    (tmp_path / "broken.yaml").write_text(
        "task: own_broken\ndataset_path: json\n"
        "dataset_kwargs: {data_files: {test: nowhere.jsonl}}\ntest_split: test\n"
    )
    return tmp_path


def test_a_third_party_task_runs_through_the_same_door(
    stock_folder: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = gpt2()
    state = torch.get_rng_state()
    found = evaluate_stock(
        text_model(model, tokenizer, 260), "own_choice", include_paths=[stock_folder]
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert found["versions"] == {"own_choice": 3.0}
    samples = found["samples"]["own_choice"]
    assert all(sample["doc_hash"] and sample["prompt_hash"] for sample in samples)
    right = [
        max(range(2), key=lambda i: sample["filtered_resps"][i][0]) == sample["doc"]["gold"]
        for sample in samples
    ]
    assert found["results"]["own_choice"]["acc,none"] == sum(right) / 2
    with pytest.raises(InputError, match="cannot load lm-eval task 'own_broken'") as caught:
        evaluate_stock(
            text_model(model, tokenizer, 260), "own_broken", include_paths=[stock_folder]
        )
    assert "\n" not in str(caught.value)


class Fixed:
    """An engine that gives the answers it was made with."""

    max_length = 64
    vocabulary = Vocabulary(size=260, eos_ids=(256,), pad_id=256)

    def __init__(self, *answers: Answer) -> None:
        self._answers = answers

    def answers(self, *asked: object, **how: object) -> Iterator[list[Answer]]:
        yield list(self._answers)


def test_a_metric_of_lm_evals_has_bounds_where_its_documents_are_shares() -> None:
    rows = [
        ScoreRow(
            doc_id=place,
            prompt_hash="h",
            reference_tokens=1,
            seeds=[0],
            metrics={"f1": [share], "words": [7 * share], "acc": [share]},
        )
        for place, share in enumerate((0.0, 0.25, 1.0))
    ]
    better = {"own": {"f1": True, "words": False, "acc": True, "ppl": False}}
    cards = metric_cards({"higher_is_better": better}, rows)
    assert {name: (card["low"], card["high"]) for name, card in cards.items()} == {
        "f1": (0.0, 1.0),
        "words": (None, None),
        "ppl": (None, None),
    }
    assert cards["words"]["better"] == -1


def test_answers_are_decoded_without_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("Ünïcödé ∞")["input_ids"]
    model = TextModel(Fixed(Answer((*ids, 256), True), Answer((), False)), tokenizer)  # type: ignore[arg-type]
    (got,) = model.respond([], Decoding(max_new_tokens=64))
    assert got == [Response("Ünïcödé ∞", len(ids) + 1, True), Response("", 0, False)]


def test_the_token_that_ended_an_answer_is_no_word(tokenizer: PreTrainedTokenizerFast) -> None:
    """Also where a tokenizer does not hold it for special, as after `add_tokens`."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["<|im_end|>"])
    ids = tokenizer("paris<|im_end|>", add_special_tokens=False)["input_ids"]
    assert ids[-1] == 257 and "im_end" in tokenizer.decode(ids, skip_special_tokens=True)
    model = text_model(gpt2(), tokenizer, 260, end=257)
    assert model.text(ids) == "paris" == model.text(ids[:-1])
    assert model.text([*ids, *ids]) == "paris<|im_end|>paris"  # the first ended nothing


def test_a_stop_that_is_a_special_token_is_found(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "<tool>"]})
    ids = tokenizer("say <tool>yes.<turn>\nno. <turn>", add_special_tokens=False)["input_ids"]
    assert max(ids) > 256
    model = text_model(gpt2(), tokenizer, 260)
    assert model.text((*ids, 256)) == "say yes.\nno. "
    assert model.text((*ids, 256), ["<turn>"]) == "say yes."
    assert model.text((*ids, 256), ["<turn>\n", "."]) == "say yes"
    assert model.text((*ids, 256), ["<end>"]) == "say yes.\nno. "
    assert model.text((*ids, 256), ["o."]) == "say yes.\nn"


@pytest.mark.parametrize("protocol", [STRICT, MINILLM_COMPAT], ids=lambda p: p.name)
def test_a_model_answers_the_same_at_every_batch_size(
    data_folder: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, protocol: object
) -> None:
    short = replace(protocol, max_prompt=100, max_length=112)  # type: ignore[type-var]
    compat = short.name == "minillm-compat"  # type: ignore[attr-defined]
    decoding = DecodingRecord(max_new_tokens=12, no_repeat_ngram=short.no_repeat_ngram)  # type: ignore[attr-defined]
    prepared = prepare(data_folder, tokenizer, protocol=short, template="mini")
    card = ModelRef(name="gpt2", fingerprint="f", parameters=1)
    files = []
    for batch_size in (1, 5):
        ours = text_model(gpt2(), tokenizer, batch_size=batch_size, dtype=torch.float64)
        answering = answering_model("gpt2", card, tokenizer, lambda ours=ours: ours)
        out = tmp_path / str(batch_size)
        answer = answering.answerer(decoding)
        files.append(generate(answer, prepared, seed=10, out=out, chunk=CHUNK))
    assert files[0].path.read_bytes() == files[1].path.read_bytes()
    rows = files[0].rows
    assert len(rows) == (10 if compat else 9)
    assert all(row.response_tokens <= 12 and row.response for row in rows)
    assert len({row.response for row in rows}) >= 8  # the two equal prompts may agree


def test_stock_answers_stop_where_the_task_says(tokenizer: PreTrainedTokenizerFast) -> None:
    ours = ModelLM(text_model(gpt2(), tokenizer))
    greedy = {"until": [], "max_gen_toks": 8, "do_sample": False}
    sampled = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    requests = instances("generate_until", ("one", greedy), ("two", sampled), ("one", greedy))
    first, second, third = ours.generate_until(requests)
    assert first == third
    stop = first[2]
    cut = ours.generate_until(instances("generate_until", ("one", {**greedy, "until": [stop, ""]})))
    assert cut == [first[: first.index(stop)]]
    assert second != first
    assert cut_at("abc", ["c", "b"]) == "a"
    assert cut_at("abc", ["x"]) == "abc"


def test_another_sample_of_a_request_is_another_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    ours = ModelLM(text_model(gpt2(), tokenizer))
    sampled = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    one, twin = instances("generate_until", ("one", sampled), ("one", sampled))
    first, second, third, other = ours.generate_until([one, one, one, twin])
    assert len({first, second, third}) == 3
    assert other == first  # equal prompts, equal noise


def test_repeats_of_a_stock_task_differ(
    stock_folder: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    (stock_folder / "own_answers.yaml").write_text(
        "task: own_answers\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {stock_folder / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: generate_until\nrepeats: 3\n"
        "doc_to_text: question\ndoc_to_target: gold\n"
        "generation_kwargs: {until: [], max_gen_toks: 6, do_sample: true, temperature: 1.0}\n"
        "filter_list: [{name: all, filter: [{function: take_first_k, k: 3}]}]\n"
        "process_results: !function results.longest\n"
        "metric_list: [{metric: length, aggregation: mean, higher_is_better: true}]\n"
    )
    (stock_folder / "results.py").write_text(
        "def longest(doc, results):\n    return {'length': max(map(len, results[0]))}\n"
    )
    found = evaluate_stock(
        text_model(gpt2(), tokenizer, 260), "own_answers", include_paths=[stock_folder]
    )
    for sample in found["samples"]["own_answers"]:
        assert len({*sample["resps"][0]}) == 3


@pytest.mark.parametrize("make", [gpt2, llama])
def test_greedy_answers_equal_lm_evals_own_model(
    make: Callable[[int], PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make(64)
    peer = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    settings = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    asked = instances(
        "generate_until",
        ("The sky is", settings),
        ("far too long for its context " * 9, settings),  # loses its left
        ("x", settings | {"max_gen_toks": 60}),
    )
    expected = peer.generate_until(asked, disable_tqdm=True)
    assert ModelLM(text_model(model, tokenizer, 257)).generate_until(asked) == expected


def test_the_context_is_as_long_as_lm_eval_finds_it(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    for model in (gpt2(96), llama(8192)):
        expected = resolve_max_length(model.config, tokenizer)
        assert text_model(model, tokenizer).max_length == expected
    bloom = BloomForCausalLM(BloomConfig(vocab_size=260, hidden_size=16, n_layer=1, n_head=2))
    assert text_model(bloom, tokenizer).max_length == 2048
    tokenizer.model_max_length = 512
    assert text_model(bloom, tokenizer).max_length == 512


def test_a_task_that_asks_for_more_than_the_context_is_refused(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ours = ModelLM(text_model(gpt2(64), tokenizer))
    asked = instances("generate_until", ("one", {"until": [], "max_gen_toks": 64}))
    with pytest.raises(InputError, match="64 new tokens, but the model's context has 64"):
        ours.generate_until(asked)
