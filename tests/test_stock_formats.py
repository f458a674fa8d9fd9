"""lm-eval's tasks in a model's own format and context: as lm-eval's own ``hf`` model asks them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_styles import STYLES, WORDS, tokenizer
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from transformers import LlamaConfig, LlamaForCausalLM

from kdbench.harness.data.templates import PromptFormat
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.stock import check_room, documents
from kdbench.harness.lm.answers import most_new_tokens, request_decoding, stock_prompts
from kdbench.harness.lm.likelihoods import evaluate_stock
from kdbench.harness.lm.tasks import manager_of
from kdbench.harness.text_model import TextModel, chat_text
from kdbench.trainers.engine import LoadedModel
from kdbench.trainers.models import vocabulary

pytestmark = pytest.mark.usefixtures("dataset_cache")


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Path]:
    """A multiple-choice task with one long question, and one that is answered at length."""
    long = " ".join([WORDS] * 130)
    rows = [
        {"q": "Eelgrass grows in", "choices": ["salt water", "sand"], "gold": 0},
        {"q": f"It is eelgrass. {long} So it is", "choices": ["eelgrass", "sand"], "gold": 0},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "test_split: test\nmetadata: {version: 1.0}\ndoc_to_text: q\n"
    )
    (tmp_path / "plants.yaml").write_text(
        f"task: plants\n{common}output_type: multiple_choice\ndoc_to_target: gold\n"
        "doc_to_choice: choices\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    (tmp_path / "essay.yaml").write_text(
        f"task: essay\n{common}output_type: generate_until\ndoc_to_target: '{{{{choices[0]}}}}'\n"
        "generation_kwargs: {until: [], do_sample: false, max_gen_toks: 4096}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    yield tmp_path


def models(made: Any, form: PromptFormat, positions: int = 8192) -> tuple[TextModel, Any]:
    """Ours and lm-eval's around one model."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(made),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=positions,
        bos_token_id=made.bos_token_id,
        eos_token_id=made.eos_token_id,
    )
    model = LlamaForCausalLM(config).eval()
    engine = LoadedModel(model=model, vocabulary=vocabulary(made), batch_size=2, chunk=2)
    peer = HFLM(
        pretrained=model,
        tokenizer=made,
        batch_size=1,
        chat_template_args=dict(form.arguments),
    )
    return TextModel(engine, made, form), peer


def values(found: Any, task: str) -> list[float]:
    responses = [r for s in found["samples"][task] for r in s["filtered_resps"]]
    return [float(r[0]) for r in responses]


def test_likelihoods_in_the_chat_format_are_lm_evals(tasks: Path) -> None:
    style = STYLES["qwen 3, not thinking"]
    made, form = style.tokenizer(adds="<s>"), PromptFormat("chat", arguments=style.arguments)
    ours, peer = models(made, form)
    assert ours.max_length == peer.max_length == 8192
    found = evaluate_stock(ours, "plants", include_paths=[tasks], chat=True)
    theirs = simple_evaluate(
        peer,
        tasks=["plants"],
        task_manager=manager_of("plants", [tasks]),
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    assert values(found, "plants") == pytest.approx(values(theirs, "plants"), abs=2e-3)
    plain = evaluate_stock(ours, "plants", include_paths=[tasks])
    assert values(plain, "plants") != pytest.approx(values(found, "plants"), abs=1e-2)
    asked = found["samples"]["plants"][1]["arguments"][0][0]
    assert len(ours.encode(asked)) > 2048  # nothing of it is cut


def test_generation_tasks_are_asked_in_the_chat_format(tasks: Path) -> None:
    made, form = STYLES["chatml"].tokenizer(), PromptFormat("chat")
    prompts = stock_prompts(
        "essay", include_paths=[tasks], chat=lambda m, opened: chat_text(made, form, m, opened)
    )
    assert prompts[0].context == (
        "<|im_start|>user\nEelgrass grows in<|im_end|>\n<|im_start|>assistant\n"
    )


def test_answers_longer_than_the_context_are_known_before_anything_is_trained(tasks: Path) -> None:
    assert most_new_tokens("essay", [tasks]) == 4096
    assert most_new_tokens("plants", [tasks]) == 0
    check_room("essay", 4096, 8192)
    check_room("plants", 0, 1)
    with pytest.raises(InputError, match="wants 4096 new tokens, the model has a context of 4096"):
        check_room("essay", 4096, 4096)


@pytest.mark.parametrize("begin", ["auto", "always", "never"])
def test_the_begin_token_of_stock_tasks_is_a_setting(begin: str) -> None:
    for adds in ("", "<s>"):
        made = tokenizer(adds=adds)
        ours, peer = models(made, PromptFormat("none", begin=begin))  # type: ignore[arg-type]
        for text in ("Eelgrass", "<s>Eelgrass"):
            first = ours.encode(text)
            written = text.startswith("<s>")
            wanted = {"auto": written or bool(adds), "always": True, "never": written}[begin]
            assert first.count(made.bos_token_id) == wanted
            if begin == "auto":
                assert first == peer.tok_encode(text)


def test_what_documents_have_is_in_the_metrics_own_unit() -> None:
    """A document's part of a perplexity is a log-likelihood; lm-eval's exact match is a share."""
    names = ["perplexity", "exact_match", "acc"]
    values = [(-2.5, 1.0, 0), (-1.5, 0.0, 1)]
    samples = [
        {"doc_id": i, "filter": "none", "metrics": names, **dict(zip(names, row, strict=True))}
        for i, row in enumerate(values)
    ]
    results = {"samples": {"it": samples}, "averaged": {"it": ["exact_match", "acc"]}}
    found = [metrics for _, metrics in documents(results)]
    assert found == [{"exact_match": 100.0, "acc": 0.0}, {"exact_match": 0.0, "acc": 1.0}]


def test_what_decoding_cannot_do_is_refused() -> None:
    asked = {"until": ["\n"], "do_sample": False, "num_beams": 1, "max_gen_toks": 8}
    assert request_decoding(asked).max_new_tokens == 8
    with pytest.raises(InputError, match="wants num_beams=10 of a generation"):
        request_decoding(asked | {"num_beams": 10})
