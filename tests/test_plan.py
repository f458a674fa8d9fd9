"""The planner's arithmetic against the libraries that it foresees, and what it advises."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from typer.testing import CliRunner

from kdbench.harness.cli import app
from kdbench.harness.errors import InputError
from kdbench.harness.own_methods import METHODS
from kdbench.harness.plan import host, memory
from kdbench.harness.plan.activations import Pass, a_token, cast_weights
from kdbench.harness.plan.fit import Run, remedy, with_lora
from kdbench.harness.plan.hardware import CPU, Scaling, machine_of
from kdbench.harness.plan.job import WIDEST_HEAD, Job, Lengths, Micro, total
from kdbench.harness.plan.known import find_shape, known_configs
from kdbench.harness.plan.planning import _counted, host_memory, models_of, plan
from kdbench.harness.plan.rows import rows_of
from kdbench.harness.plan.shapes import MIXTURES, STORED_OTHERWISE, shape_of
from kdbench.harness.plan.times import forward_flops, sampling_time, training_time
from kdbench.harness.plan.work import WORKS, work_of
from kdbench.harness.registry import find_method
from kdbench.harness.resolve import outline, resolve
from kdbench.harness.verbs.plan import verdict
from kdbench.tasks.mini.models import model_config
from kdbench.trainers.cuda import attention
from kdbench.trainers.head import analytic, generic, tiles
from kdbench.trainers.lora.settings import ALL, Lora
from kdbench.trainers.parallel import export
from kdbench.trainers.parallel.loading import find_unread
from kdbench.trainers.sampler import decoders, sampler
from kdbench.trainers.vllm import engine

ROWS, WIDTH = 2, 32
SIZES: dict[str, Any] = {"vocab_size": 300, "hidden_size": 64, "num_attention_heads": 4}
WIDE: dict[str, Any] = {**SIZES, "intermediate_size": 168, "num_key_value_heads": 2}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**WIDE, head_dim=24),
    "qwen2": Qwen2Config(**WIDE),
    "qwen3": Qwen3Config(**WIDE, head_dim=24),
    "gpt2": GPT2Config(vocab_size=300, n_embd=64, n_head=4, n_inner=168, **ENDS),
    "opt": OPTConfig(**SIZES, ffn_dim=168, word_embed_proj_dim=64),
}


def kept_by_autograd(config: PretrainedConfig, layers: int, *, half: bool, dropout: bool) -> int:
    """Bytes that a forward pass in rows with a mask keeps for backward, nothing computed."""
    own: dict[str, Any] = {"num_hidden_layers": layers, "layer_types": None}
    if not dropout:
        own |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout"), 0.0)
    own = {k: v for k, v in own.items() if k == "num_hidden_layers" or hasattr(config, k)}
    config = type(config)(**{**config.to_diff_dict(), **own})
    config._attn_implementation = "sdpa"
    seen: dict[int, int] = {}
    alive = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train(dropout)
        weights = {p.untyped_storage()._cdata for p in model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                seen[storage._cdata] = storage.nbytes()
                alive.append(tensor)
            return tensor

        with (
            torch.autocast("cpu", torch.bfloat16, enabled=half),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            model.base_model(
                input_ids=torch.zeros(ROWS, WIDTH, dtype=torch.long),
                attention_mask=torch.ones(ROWS, 1, WIDTH, WIDTH, dtype=torch.bool),
                position_ids=torch.arange(WIDTH).expand(ROWS, WIDTH),
                use_cache=False,
            )
    return sum(seen.values())


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("family", CONFIGS)
def test_activations_are_those_autograd_keeps(family: str, half: bool) -> None:
    config = CONFIGS[family]
    shape = shape_of(config.to_dict(), family)
    run = Pass(tokens=ROWS * WIDTH, row=WIDTH, half=half)
    one, two = (kept_by_autograd(config, n, half=half, dropout=False) for n in (1, 2))
    casts = cast_weights(replace(shape, layers=1), run)
    assert two - one == run.tokens * a_token(shape, run) + casts


def test_attention_with_dropout_has_no_kernel_on_a_cpu() -> None:
    shape = shape_of(CONFIGS["gpt2"].to_dict(), "gpt2")
    run = Pass(tokens=ROWS * WIDTH, row=WIDTH, half=False, cpu=True, dropout=True)
    one, two = (kept_by_autograd(CONFIGS["gpt2"], n, half=False, dropout=True) for n in (1, 2))
    assert two - one == run.tokens * a_token(shape, run)


MIXED = {name: architectures.config(name) for name in sorted(MIXTURES)}
MIXED["dense layers"] = architectures.config("qwen3_moe")
MIXED["dense layers"].mlp_only_layers = [0, 2]


@pytest.mark.parametrize("family", [*CONFIGS, "tied", "half-width", "mini", *MIXED])
def test_parameters(family: str) -> None:
    others = {
        "tied": LlamaConfig(**WIDE, tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
        "half-width": OPTConfig(**SIZES, ffn_dim=168, word_embed_proj_dim=32),
        "mini": model_config("teacher", "mini-2"),
    }
    config = (others | MIXED).get(family) or CONFIGS[family]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = shape_of(config.to_dict(), family)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    kinds = ".gate_up_proj", ".down_proj"  # of all experts; a token goes through two of four
    experts = sum(p.numel() for name, p in model.named_parameters() if name.endswith(kinds))
    assert shape.matrices - shape.active == experts // 2
    assert shape.read(1) == shape.parameters - experts / 2
    assert shape.read(2) == shape.parameters
    linears = (
        m for n, m in model.named_modules() if type(m) is torch.nn.Linear and "head" not in n
    )
    if not shape.fused and shape.embed == shape.hidden:
        assert shape.adapted([ALL]) == sum(m.weight.numel() for m in linears)


def test_mixtures_of_experts() -> None:
    own = {"hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 4}
    qwen3 = own | {
        "model_type": "qwen3_moe", "head_dim": 128, "vocab_size": 151936, "num_hidden_layers": 48,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128,
        "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "tie_word_embeddings": False,
    }  # fmt: skip
    shape = shape_of(qwen3, "Qwen3-30B-A3B")
    assert shape.parameters == pytest.approx(30.53e9, rel=1e-3)
    assert shape.active + shape.root == pytest.approx(3.35e9, rel=1e-2)
    assert forward_flops(shape, 1, 0, 0) == 2 * shape.active
    assert shape.cut("prune:24", 24).body == shape.body // 2
    mixtral = shape_of(MixtralConfig().to_dict(), "Mixtral-8x7B")
    assert mixtral.parameters == pytest.approx(46.7e9, rel=1e-3)
    large = shape_of(DeepseekV3Config().to_dict(), "DeepSeek-V3")
    assert large.parameters == pytest.approx(671e9, rel=0.02) and not large.exact
    assert "256 experts a layer; what else it has comes on top" in _counted(large)
    assert "it takes more" in _counted(shape_of(Gemma2Config().to_dict(), "gemma"))
    strange = {k: v for k, v in qwen3.items() if k != "num_experts"} | {"experts_a_layer": 8}
    with pytest.raises(InputError, match="says that it is a mixture of experts"):
        shape_of(strange, "strange")


def test_notes_of_models() -> None:
    for name in ("mini-2", "mini-test"):
        for role in ("teacher", "student"):
            noted = find_shape(f"{name}:{role}")
            assert noted == shape_of(model_config(role, name).to_dict(), noted.name)
    billions = {name: shape_of(c, name).parameters / 1e9 for name, c in known_configs().items()}
    public = {
        "openai-community/gpt2": 0.12444,
        "openai-community/gpt2-xl": 1.5576,
        "facebook/opt-13b": 12.85,
        "huggyllama/llama-7b": 6.738,
        "Qwen/Qwen2.5-7B": 7.616,
        "HuggingFaceTB/SmolLM2-135M-Instruct": 0.1345,
    }
    for name, size in public.items():
        assert billions[name] == pytest.approx(size, rel=1e-3), name


@pytest.mark.parametrize("method", METHODS)
def test_work_is_what_the_card_says(method: str) -> None:
    found = find_method(method).method
    card, work = found.card, work_of(method, found.Config().model_dump())
    assert WORKS.keys() == METHODS.keys()
    assert work_of(method, {}) == work
    assert work.loaded == (card.teacher_logits or card.teacher_samples)
    assert work.text == card.plain_text
    assert work.given == bool(found(found.Config()).reads())
    assert bool(work.sampled) == (card.student_samples and method != "plad")
    if not card.teacher_logits:
        assert not work.teacher


def test_what_is_known_of_other_rooms_holds() -> None:
    assert memory.TILE_ELEMENTS == tiles._TILE_ELEMENTS
    gpu = tiles._GPU_TILE_ELEMENTS, tiles._GPU_ROWS, tiles._SHARE
    assert gpu == (memory.GPU_TILE_ELEMENTS, memory.GPU_ROWS, memory.GPU_SHARE)
    assert memory.GPU_BLOCK_ELEMENTS == generic._GPU_BLOCK_ELEMENTS == analytic._GPU_BLOCK_ELEMENTS
    assert memory.VLLM_SHARE == engine.SHARE
    assert (memory.SPARE, memory.GROUP) == (sampler._READ_AHEAD, decoders._GROUP_TOKENS)
    assert host.FILE_BYTES == export.FILE_BYTES
    assert attention._LARGEST == WIDEST_HEAD


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "gpt_neox", "mixtral"])
def test_which_models_are_read_by_shares(name: str, tmp_path: Path) -> None:
    model = architectures.model(name)
    model.save_pretrained(tmp_path)
    unread = find_unread(str(tmp_path), dtype=torch.float32)
    assert STORED_OTHERWISE.isdisjoint({name}) == (unread is not None)


def job_of(scaling: Scaling, *, cpu: bool = False, **changes: Any) -> Job:
    config = outline(suite="minillm-llama-7b", method="minillm")
    models, recipe = models_of(config), config.train.model_copy(update={"precision": "bf16"})
    return Job(
        student=replace(models.student, **changes),
        teacher=replace(models.teacher, **changes),
        recipe=recipe,
        work=work_of("minillm", {}),
        lengths=Lengths(prompt=100, response=100, text=0),
        decode_rows=8,
        machine=replace(CPU, count=8) if cpu else machine_of("8x80"),
        scaling=scaling,
    )


def test_what_is_shared_passes_main_memory_tensor_by_tensor() -> None:
    shared = Scaling(shard="fsdp2", teacher="sharded")
    job, whole = job_of(shared), job_of(Scaling())
    student, teacher = job.student, job.teacher
    assert teacher is not None
    one = 6 * teacher.largest  # float32 in the file, and as it is rounded
    assert total(host.loading(job)) == one
    assert total(host.loading(job_of(shared, cpu=True))) == (
        4 * student.parameters // 8 + 2 * teacher.layers_shared(8) + one
    )
    both = 4 * student.parameters + 2 * teacher.parameters
    assert total(host.loading(whole)) == both
    assert total(host.loading(job_of(shared, by_shares=False))) == both
    assert host.copied(whole) == 0
    copy = 12 * student.parameters // 8
    assert host.copied(job) == copy + 2 * min(copy, host.FILE_BYTES)
    assert host.first(job) == host.FILE_BYTES + 4 * student.largest
    assert host.first(job_of(shared, by_shares=False)) == 4 * student.parameters
    assert host_memory(job) < host_memory(whole)
    lora = job.recipe.model_copy(update={"lora": Lora(r=8)})
    assert host.first(replace(job, recipe=lora)) == 4 * student.parameters
    small = job.recipe.model_copy(update={"lora": Lora(r=8, quantize="nf4")})
    saved, layers = 2 - 4.127 / 8, student.layers * student.layer_matrices
    one, other = (memory.resident(replace(whole, recipe=each))["weights"] for each in (lora, small))
    assert one - other == pytest.approx(saved * layers, abs=1)


def test_what_is_frozen_is_neither_copied_nor_checkpointed() -> None:
    def planned(rank: int | None) -> Any:
        config = outline(suite="minillm-llama-7b", method="minillm")
        config = config if rank is None else with_lora(config, rank)
        return plan(config, models_of(config), work_of("minillm", {}), machine_of("1x80"))

    whole, adapted = planned(None), planned(8)
    parts = [{p.name: p.parts for p in made.phases}["SFT init"] for made in (whole, adapted)]
    assert ["half-precision weights" in each for each in parts] == [True, False]
    for model, line in (
        (adapted.models.teacher, "teacher's checkpoints (while it is fine-tuned)"),
        (adapted.models.student, "init's checkpoints (while it is trained)"),
        (adapted.models.student, "checkpoints and best weights (while training)"),
    ):
        for made, lora in ((whole, None), (adapted, Lora(r=8))):
            assert made.disk[line] == 32 * model.trained(lora)


def test_the_largest_micro_batch_is_one_of_the_longest_rows() -> None:
    def micro(limit: int, *, batch: int = 16, longest: int | None = None, **changes: Any) -> Micro:
        job = job_of(Scaling(), **changes)
        sizes = {"batch_size": batch, "micro_tokens": limit, "max_length": 512, "max_prompt": 256}
        work = replace(job.work, sampled=0.0, text=False)
        lengths = replace(job.lengths, longest=longest)
        recipe = job.recipe.model_copy(update=sizes)
        return replace(job, recipe=recipe, work=work, lengths=lengths).largest

    assert micro(4096)[:3] == (1024, 1024, 512)  # the means of two rows on each card are 400
    assert micro(4096, longest=300)[:3] == (600, 1024, 512)
    assert micro(800, batch=64)[:3] == (800, 1024, 512)
    assert micro(64)[:3] == (512, 512, 512)  # a longer row stands alone
    padded = micro(800, batch=64, family="opt")  # four short rows, filled up to a long one
    assert padded[:3] == (800, 2048, 512)


def test_a_pair_stays_together_and_answers_may_be_long() -> None:
    config = outline(suite="minillm-llama-7b", method="dpkd")
    recipe = config.train.model_copy(update={"micro_tokens": 64, "max_length": 512})
    job = replace(job_of(Scaling()), recipe=recipe, work=work_of("dpkd", {"lm_coef": 0.0}))
    job = replace(job, lengths=replace(job.lengths, longest=50))
    assert job.largest.tokens == 2 * 512
    given = replace(job, work=work_of("fkd", {}))
    assert given.largest.tokens == 64 and given.longest == 50


def test_attention_by_sequence_keeps_no_mask() -> None:
    job = job_of(Scaling())
    assert job.apart(job.student) and job.forward().apart
    other = job.recipe.model_copy(update={"precision": "fp32"})
    assert not replace(job, recipe=other).apart(job.student)
    assert replace(job_of(Scaling(), cpu=True), recipe=other).apart(job.student)
    dropping = replace(job.student, attention_dropout=0.1)
    assert [job.apart(dropping, dropout=on) for on in (False, True)] == [True, False]
    assert not job.apart(replace(job.student, head_dim=320))
    run, shape = Pass(tokens=512, row=512, half=True), replace(job.student, kv_heads=8)
    repeated = 2 * 2 * (shape.queries - shape.keys)
    saved = a_token(shape, run) - a_token(shape, replace(run, apart=True))
    assert saved == repeated + 512 * 2
    rows = rows_of(outline(suite="minillm-llama-7b", method="fkd"), job.recipe)
    flops = [
        training_time(each, rows).flops
        for each in (job, replace(job, student=replace(job.student, family="gemma2")))
    ]
    assert flops[0] < flops[1]  # a row of 512 against sequences of 200


def test_no_more_rows_are_decoded_together_than_are_asked() -> None:
    def hours(method: str, batch: int, rows: int, **options: Any) -> float:
        config = outline(suite="minillm-llama-7b", method=method)
        train = config.train.model_copy(update={"batch_size": batch, "steps": 64, "epochs": None})
        generate = config.generate.model_copy(update={"batch_size": rows})
        config = config.model_copy(update={"train": train, "generate": generate})
        work = work_of(method, options)
        phases = plan(config, models_of(config), work, machine_of("8xh100")).phases
        spent = next(each.spent for each in phases if each.name == "sampling")
        return spent.seconds.slow / spent.sampled.slow

    assert hours("opd", 32, 32) == hours("opd", 32, 4)  # four a card, whatever fits
    assert hours("minillm", 32, 32) < hours("minillm", 32, 4)
    few = {"ppo": {"rollouts": 32}}
    assert hours("minillm", 32, 32, **few) == hours("minillm", 32, 4, **few)
    assert hours("distillm2", 8, 32) < hours("distillm2", 8, 32, refresh=1)
    shape = find_shape("huggyllama/llama-7b")
    one: dict[str, Any] = {"answers": 1, "longest": 100, "rows": 1, "size": 2, "ranks": 1}
    found = sampling_time(shape, CPU, **one)
    assert found.flops == 2 * (shape.matrices + shape.head) * 80  # the embedding multiplies nothing


def test_vllm_takes_its_share_of_a_card() -> None:
    def planned(method: str, gpus: str, *given: str) -> Any:
        given = ("generate.engine=vllm", "parallel.shard=none", *given)
        config = outline(suite="minillm-llama-7b", method=method, assignments=list(given))
        work = work_of(method, config.method.options)
        run = Run(config, models_of(config), work)
        return run, plan(*run, machine_of(gpus), Scaling())

    run, made = planned("opd", "1x200")
    parts = {each.name: each.parts for each in made.phases}
    for phase in ("sampling", "evaluation"):
        assert parts[phase]["vLLM"] == round(0.4 * 200 * 2**30)
        assert not {"decoder", "keys and values"} & parts[phase].keys()
    assert parts["sampling"]["teacher"] == 2 * made.models.teacher.parameters and not made.short
    mixed = planned("minillm", "1x200")[1]  # what is mixed keeps our decoder
    assert "vLLM" not in next(each.parts for each in mixed.phases if each.name == "sampling")
    run, made = planned("sft", "1x55", "teacher_sft=null", "init_sft=null", "train.lora.r=8")
    assert made.peak <= made.machine.usable and not made.fits
    assert "13b with one answer takes" in made.short and "40% of a card, 22.0 GiB" in made.short
    found = remedy([run], made.machine, made.scaling)
    assert found is not None and found.settings == ("generate.engine=own",) and found.same
    assert made.short in verdict(made, found, None)


def test_an_outline_is_the_run_without_its_method() -> None:
    asked: dict[str, Any] = {"suite": "minillm-llama-7b", "assignments": ["train.lr=1e-6"]}
    for method in ("minillm", "sft"):
        whole, outlined = resolve(method=method, **asked), outline(method=method, **asked)
        assert outlined.model_copy(update={"method": whole.method}) == whole
    with pytest.raises(InputError, match="did you mean"):
        outline(suite="mini", method="fkd", assignments=["train.lrr=1"])


def test_each_setting_takes_memory_away() -> None:
    config = outline(suite="minillm-llama-7b", method="minillm")
    models, work = models_of(config), work_of("minillm", config.method.options)
    cards = machine_of("8x80")

    def peak(scaling: Scaling, phase: str = "training") -> int:
        made = plan(config, models, work, cards, scaling)
        return next(each.peak for each in made.phases if each.name == phase)

    whole, sharded = Scaling(), Scaling(shard="fsdp2")
    assert peak(whole) > peak(sharded) > peak(replace(sharded, teacher="sharded"))
    assert peak(sharded) > peak(replace(sharded, checkpoint_activations=True))
    assert peak(whole, "sampling") > peak(sharded, "sampling")
    found = remedy([Run(config, models, work)], cards, whole)
    assert found is not None and found.plan.fits and found.same
    assert "parallel.shard=fsdp2" in found.settings
    all_weights = peak(whole)
    config = with_lora(config, 16)
    assert all_weights > peak(whole)


def test_a_store_takes_the_teacher_out_of_training() -> None:
    def planned(kind: str, method: str = "fkd", **more: str) -> Any:
        given = [f"teacher.store={kind}", *(f"{k}={v}" for k, v in more.items())]
        config = outline(suite="minillm-llama-7b", method=method, assignments=given)
        work = work_of(method, config.method.options)
        return plan(config, models_of(config), work, machine_of("8x80"), Scaling(shard="fsdp2"))

    live, stored, half = planned("none"), planned("hidden"), planned("hidden-bf16")
    peaks = [{p.name: p.peak for p in made.phases} for made in (live, stored)]
    assert "teacher store" not in peaks[0]
    body = 2 * (live.models.teacher.parameters - live.models.teacher.head)
    assert peaks[0]["training"] - peaks[1]["training"] == body
    place = "teacher store (cache)"
    positions = 11_300 * 80
    head = 2 * live.models.teacher.head
    assert stored.disk[place] == half.disk[place] == positions * 2 * 5120 + head  # in bf16 anyway
    short = planned("hidden", **{"train.steps": "10", "train.batch_size": "8"})
    assert short.disk[place] == 80 * 80 * 2 * 5120 + head
    assert place not in planned("hidden", "minillm").disk


def test_the_verb(tmp_path: Path) -> None:
    arguments = ["plan", "--suite", "minillm-opt-6.7b", "--method", "fkd", "--price", "2", "--json"]
    done = CliRunner().invoke(app, [*arguments, "--gpus", "8x80"])
    assert json.loads(done.stdout)["fits"]  # as its suite says: shared
    arguments += ["--set", "parallel.shard=none"]
    done = CliRunner().invoke(app, [*arguments, "--gpus", "8x80"])
    found = json.loads(done.stdout)
    assert not found["fits"] and "parallel.shard=fsdp2" in found["verdict"]
    assert [phase["name"] for phase in found["phases"]] == [
        "teacher fine-tuning",
        "training",
        "evaluation",
    ]
    for phase in found["phases"]:
        assert phase["peak"] == sum(phase["parts"].values()) > 0 and phase["flops"] > 0
    low, high = found["cost"]
    assert 0 < low < high
    own = tmp_path / "config.json"
    own.write_text(json.dumps(known_configs()["openai-community/gpt2"]))
    pair = ["--teacher", "openai-community/gpt2-xl", "--student", str(own), "--gpus", "1x80"]
    done = CliRunner().invoke(app, ["plan", "--suite", "minillm-gpt2-120m", *pair])
    assert "gpt2-xl (1.56B) → " in done.stdout and "fits on 1 × 80 GiB" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--teacher", "nobody/nothing"], "no configuration of 'nobody/nothing'"),
        (["--gpus", "eight cards"], "says no hardware"),
        (["--gpus", "8xb52"], "names no card"),
        (["--gpus", "cpu", "--devices", "2"], "are of cards"),
        (["--student", "prune:99"], "the teacher has 3 layers"),
    ],
)
def test_mistakes_are_sentences(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["plan", "--suite", "mini", *arguments])
    assert isinstance(done.exception, InputError) and said in str(done.exception)


def test_the_page_is_the_planners() -> None:
    docs = Path(__file__).parents[1] / "docs"
    spec = spec_from_file_location("make_plan", docs / "make_plan.py")
    assert spec is not None and spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    cell = made.cell(made.cases("minillm-llama-7b"), "8x80")
    again = "run python docs/make_plan.py"
    assert cell in (docs / "plan.md").read_text(encoding="utf-8"), again


def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys; from kdbench.harness.cli import app; "
        "app(['plan', '--suite', 'mini'], standalone_mode=False); "
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
