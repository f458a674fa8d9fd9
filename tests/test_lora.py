"""LoRA: only adapters learn and are kept, merged they are the student, and nothing forgets them."""

import json
import random
from pathlib import Path

import forks
import pytest
import runs
import tiny
import torch
import zoo
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from kdbench.harness.errors import InputError
from kdbench.harness.own_methods import METHODS
from kdbench.harness.resolve import resolve
from kdbench.harness.runner.models import check_adapters
from kdbench.trainers.engine import LoadedModel
from kdbench.trainers.loop import Loop
from kdbench.trainers.lora.adapters import Base, adapt, refuse_unfit
from kdbench.trainers.lora.merging import named_weight, weight_of
from kdbench.trainers.lora.settings import Lora
from kdbench.trainers.models import Vocabulary, load_model
from kdbench.trainers.sampler.llama import is_plain_llama
from kdbench.trainers.types import Decoding, Prompt

peft = pytest.importorskip("peft")

ALL = ("all-linear",)
KINDS = {
    "llama, tied": ("llama", True, ALL),
    "llama, head too": ("llama", False, ("q_proj", "mlp.up_proj", "lm_head")),
    "gpt2": ("gpt2", True, ("c_attn", "attn.c_proj")),
    "qwen2": ("qwen2", False, ALL),
}
IDS = torch.arange(2, 34)[None]


def build(name: str, out: Path, kind: str = "llama, tied", **settings: object) -> Loop:
    family, tied, targets = KINDS[kind]
    options = {"steps": 4, "save_every": 2, "lora": Lora(r=4, targets=targets)} | settings
    return zoo.build(name, out, family=family, tied=tied, **options)


def files(*folders: Path) -> list[bytes]:
    return [p.read_bytes() for f in folders for p in sorted(f.iterdir()) if p.is_file()]


def tensors(file: Path) -> list[str]:
    with safe_open(file, "pt") as opened:
        return list(opened.keys())


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_merged_and_beside_its_base_it_is_one_student(kind: str, tmp_path: Path) -> None:
    family, tied, _ = KINDS[kind]
    # with dropout, whose draws must be the same after a kill
    settings = {"dropout": True, "lora": Lora(r=4, targets=KINDS[kind][2], dropout=0.1)}
    settings = settings if "head" not in kind else {}
    build("fkd", tmp_path / "whole", kind, **settings).run()
    killed = build("fkd", tmp_path / "parts", kind, **settings)
    for _ in range(3):
        killed._step()
    (stored,) = tmp_path.glob("parts/checkpoints/*/state.safetensors")
    assert all("lora_" in name for name in tensors(stored))
    build("fkd", tmp_path / "parts", kind, **settings).run()
    folders = [(tmp_path / p / "student", tmp_path / p / "adapter") for p in ("whole", "parts")]
    assert files(*folders[0]) == files(*folders[1])

    student, adapter = folders[0]
    base = tiny.model(family, seed=1, tied=tied)
    merged = AutoModelForCausalLM.from_pretrained(student)
    with torch.no_grad():
        before, after = base(IDS).logits, merged(IDS).logits
        beside = peft.PeftModel.from_pretrained(base, adapter).eval()(IDS).logits
    scale = before.abs().max()
    assert (after - beside).abs().max() <= 1e-6 * scale < (after - before).abs().max()
    assert ("lm_head.weight" in tensors(student / "model.safetensors")) == (not tied)
    load_model(str(student))  # strictly
    assert not list(tmp_path.rglob("*.bin"))


@pytest.mark.parametrize("kind", ["llama, tied", "llama, head too", "gpt2"])
def test_answers_while_it_trains_are_the_merged_students(kind: str, tmp_path: Path) -> None:
    loop = build("sft", tmp_path, kind, lr=0.05, dtype=torch.float64)
    family, tied, _ = KINDS[kind]
    untrained = tiny.model(family, seed=1, tied=tied)
    prompts = [Prompt(tuple(range(i, i + 5)), i) for i in range(2, 12)]
    decoding = Decoding(max_new_tokens=12, seed=3)

    def plainly(model: torch.nn.Module) -> list[tuple[int, ...]]:
        engine = LoadedModel(
            model=model,
            vocabulary=Vocabulary(tiny.VOCAB, (tiny.EOS,), 0),
            sampling_dtype=torch.float64,
        )
        return [a.ids for chunk in engine.answers(prompts, decoding) for a in chunk]

    first = [a.ids for a in loop.ctx.answer(prompts, decoding)]
    assert first == plainly(untrained)
    while loop._progress() < 1.0:
        loop._step()
    found = [a.ids for a in loop.ctx.answer(prompts, decoding)]
    loop.run()
    assert found == plainly(AutoModelForCausalLM.from_pretrained(tmp_path / "student")) != first
    # the quick decoder reads adapters as well; whatever did, the base is left as it was
    assert is_plain_llama(loop.student) == (family == "llama")
    for name, weight in untrained.named_parameters():
        assert torch.equal(named_weight(loop.student, name, adapter=False), weight.double())


def test_head_in_tiles_gives_its_adapter_the_gradient_of_plain_autograd(tmp_path: Path) -> None:
    loop = build("sft", tmp_path, "llama, head too", tile=7)
    model = loop.student
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    tiled, _ = zoo.gradient(loop, 10_000)
    loop.module.zero_grad()
    loss = torch.zeros(())
    (stream,) = loop.method.window(loop.ctx, 0)
    for s in stream.sequences:
        ids = torch.tensor([[*s.prompt, *s.response]])
        log_q = model(ids).logits[0, len(s.prompt) - 1 : -1].log_softmax(-1)
        loss = loss - log_q.gather(1, torch.tensor(s.response)[:, None]).sum() / stream.targets
    loss.backward()
    plain = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    assert zoo.relative(tiled, torch.cat(plain)) <= 1e-5
    head = model.get_output_embeddings()
    assert torch.allclose(weight_of(head) @ torch.ones(32), head(torch.ones(32)), atol=1e-5)


# a few drawn in every test run, and those that copy the student or add modules; the rest by -m long
SLICE = {"mrkd", "dskd", *random.Random(14).sample(sorted(METHODS), 3)}
EVERY = [n if n in SLICE else pytest.param(n, marks=pytest.mark.long) for n in METHODS]


@pytest.mark.parametrize("name", EVERY)
def test_every_method_trains_adapters_as_it_trains_models(name: str, tmp_path: Path) -> None:
    """Cut up differently the gradient is the same; a kill changes no byte, of few in its checkpoint."""
    kind = "llama, head too" if len(name) % 2 else "llama, tied"
    found = []
    for options, micro_tokens in (({}, 10_000), ({"packed": False, "tile": 7}, 60)):
        loop = build(name, tmp_path, kind, dtype=torch.float64, **options)
        generator = torch.Generator().manual_seed(1)
        for part, parameter in loop.student.named_parameters():
            if "lora_B" in part:  # as after some steps
                parameter.data.normal_(std=0.05, generator=generator)
        found.append(zoo.gradient(loop, micro_tokens)[0])
    assert zoo.relative(found[1], found[0]) <= 1e-5

    build(name, tmp_path / "whole", kind, dtype=torch.float64).run()
    killed = build(name, tmp_path / "parts", kind, dtype=torch.float64)
    for _ in range(3):
        killed._step()
    (stored,) = tmp_path.glob("parts/checkpoints/*/state.safetensors")
    assert not [n for n in tensors(stored) if "base_layer" in n or "embed" in n]
    build(name, tmp_path / "parts", kind, dtype=torch.float64).run()
    kept = [files(tmp_path / p / "student", tmp_path / p / "adapter") for p in ("whole", "parts")]
    assert kept[0] == kept[1]


def test_half_precision_base_is_merged_into_the_weights_of_its_files(tmp_path: Path) -> None:
    """The frozen base is rounded while it is used, not in the student that is kept."""
    loop = build("dskd", tmp_path)
    student = tiny.model("llama", seed=1).bfloat16()
    base = Base(load=lambda: tiny.model("llama", seed=1), name="it@sha256:1")
    adapted = adapt(student, Lora(r=2), seed=1, base=base)
    assert {p.dtype for p in student.parameters() if p.requires_grad} == {torch.float32}
    with adapted.plain.lasting(None) as plain:
        assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}
    merged = adapted.load_base()
    adapted.merge_into(merged)  # B is zero still
    assert all(map(torch.equal, merged.parameters(), tiny.model("llama", seed=1).parameters()))
    assert loop.module.extra and all(
        p.dtype == torch.float32 for p in loop.module.extra.parameters()
    )


@pytest.mark.parametrize("name", ["fkd", "mrkd"])
def test_a_base_in_four_bits_is_merged_as_it_computed(name: str, tmp_path: Path) -> None:
    """Killed, resumed; the student is the widened base with the adapter, which answered in training, too."""
    bnb = pytest.importorskip("bitsandbytes")
    lora = Lora(r=4, targets=("q_proj", "mlp.down_proj"), quantize="nf4")
    settings = {"lora": lora, "lr": 0.05}
    loop = build(name, tmp_path / "whole", **settings)
    assert loop.adapted.agrees()
    loop.run()
    killed = build(name, tmp_path / "parts", **settings)
    for _ in range(3):
        killed._step()
    (stored,) = tmp_path.glob("parts/checkpoints/*/state.safetensors")
    assert not [n for n in tensors(stored) if "base_layer" in n or "up_proj" in n]
    build(name, tmp_path / "parts", **settings).run()
    folders = [(tmp_path / p / "student", tmp_path / p / "adapter") for p in ("whole", "parts")]
    assert files(*folders[0]) == files(*folders[1])

    student, adapter = folders[0]
    rounded = tiny.model("llama", seed=1)
    for part, parameter in rounded.named_parameters():
        if "_proj" in part:
            packed, state = bnb.functional.quantize_4bit(
                parameter.data, quant_type="nf4", compress_statistics=True
            )
            parameter.data = bnb.functional.dequantize_4bit(packed, state)
    merged, plain = load_model(str(student)), tiny.model("llama", seed=1)
    with torch.no_grad():
        one, other = merged(IDS).logits, plain(IDS).logits
        beside = peft.PeftModel.from_pretrained(rounded, adapter).eval()(IDS).logits
        trained = loop.student.eval()(IDS).logits
    scale = one.abs().max()
    assert (one - beside).abs().max() <= 1e-5 * scale < (one - other).abs().max()
    assert (one - trained).abs().max() <= 1e-5 * scale
    with loop.adapted.plain.lasting(None) as writer:
        assert all(map(torch.equal, writer.parameters(), merged.parameters()))


UNFIT = {
    "no layer": ("llama", True, {"targets": "q_prj"}, "no linear layer called 'q_prj'; it has q_proj"),
    "no linear layer": ("llama", True, {"targets": "mlp"}, "of type LlamaMLP.*only linear layers"),
    "embeddings": ("llama", False, {"targets": "embed_tokens"}, "of type Embedding"),
    "a tied head": ("gpt2", True, {"targets": "lm_head"}, "lm_head is tied to the embeddings"),
    "dropout on it": ("llama", False, {"targets": "lm_head", "dropout": 0.1}, "dropout cannot be"),
    "too large": ("llama", True, {"r": 17}, r"lora.r is 17, but .*k_proj has only 16 units"),
}  # fmt: skip


@pytest.mark.parametrize("what", UNFIT)
def test_what_does_not_fit_is_said_from_the_configuration(what: str) -> None:
    family, tied, lora, said = UNFIT[what]
    with pytest.raises(InputError, match=said):
        refuse_unfit(tiny.config(family, tied=tied), Lora.model_validate({"r": 4} | lora), "lora")


def test_quantised_bases_and_names_that_mean_nothing() -> None:
    config = tiny.config("llama")
    config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(InputError, match=r"plain weights.*QLoRA --set train.lora.quantize=nf4"):
        refuse_unfit(config, Lora(r=4), "train.lora")
    with pytest.raises(InputError, match="gpt2 has no layers of type Linear but its head"):
        refuse_unfit(tiny.config("gpt2"), Lora(r=4, quantize="nf4"), "train.lora")
    for assignment, said in (
        ("train.lora.load_in_4bit=true", "QLoRA is train.lora.quantize=nf4"),
        ("train.lora.alpha=3", r"lora\.r"),
        ("train.lora={r: 4, targets: [layers.3.q_proj]}", "without their number"),
        ("train.lora={r: 4, targets: [all-linear, q_proj]}", "not both"),
    ):
        with pytest.raises(InputError, match=said):
            resolve(suite="mini-test", method="fkd", assignments=[assignment])
    one = resolve(suite="mini-test", method="fkd", assignments=["train.lora.r=4"])
    assert one.train.lora == Lora(r=4) and one.init_sft.lora is None
    for section in ("train", "init_sft", "teacher_sft"):
        run = resolve(
            suite="mini-test", method="fkd", assignments=[f"{section}.lora={{r: 4, targets: c_fc}}"]
        )
        with pytest.raises(
            InputError, match=rf"{section}\.lora\.targets: llama has no linear layer"
        ):
            check_adapters(run)  # before anything is made


def test_adapters_that_a_model_reads_past_are_noticed(tmp_path: Path) -> None:
    loop = build("sft", tmp_path)
    assert loop.adapted.agrees() and not any(
        p.any() for n, p in loop.student.named_parameters() if "lora_B" in n
    )
    for _, layer in loop.adapted.layers():
        layer.forward = layer.base_layer.forward  # as code that takes the weight itself would do
    assert not loop.adapted.agrees()


def test_a_killed_run_ends_in_the_same_bytes_and_says_what_was_trained(tmp_path: Path) -> None:
    lora = "{r: 2, alpha: 8, targets: [q_proj, v_proj]}"
    command = ["train", "--suite", "mini-test", "--method", "fkd"]
    for change in (
        f"train.lora={lora}",
        "init_sft.lora.r=2",
        "train.steps=10",
        "train.save_every=2",
    ):
        command += ["--set", change]
    command.append("--runs-dir")
    forks.finish(*command, tmp_path / "whole")
    (whole,) = (tmp_path / "whole").glob("fkd-*")
    killed = tmp_path / "killed" / whole.name
    metrics = killed / "train" / "metrics.jsonl"
    process = forks.start(*command, tmp_path / "killed")
    assert forks.kill_when(process, lambda: runs.lines(metrics) >= 6), "ended before the kill"
    forks.finish(*command, tmp_path / "killed")
    assert runs.results(killed) == runs.results(whole)
    assert files(killed / "train" / "adapter") == files(whole / "train" / "adapter")

    config = json.loads((whole / "train" / "adapter" / "adapter_config.json").read_text())
    assert "@sha256:" in config["base_model_name_or_path"] and config["lora_alpha"] == 8
    card = json.loads((whole / "summary.json").read_text())["run"]
    assert 0 < card["trained_parameters"] < card["student"]["parameters"] / 10
    readme = (whole / "train" / "student" / "README.md").read_text().replace("\\", "")
    assert "LoRA" in readme and "r 2, alpha 8, targets q_proj, v_proj" in readme
    assert "M trained" in readme
    forks.finish("check", "--content", whole)
