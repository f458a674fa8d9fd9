"""The models of a run as loadable folders with content fingerprints: made once, cached, shared."""

import functools
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness import launch
from kdbench.harness.config import PairConfig, RunConfig, TrainConfig
from kdbench.harness.contents import local_copy, model_fingerprint, tokenizer_fingerprint
from kdbench.harness.data.examples import Example
from kdbench.harness.data.templates import render
from kdbench.harness.data.tokens import encode, end_of, opening
from kdbench.harness.endpoints import place_of
from kdbench.harness.errors import InputError
from kdbench.harness.files.cleaning import lost_weights
from kdbench.harness.files.folders import build_once
from kdbench.harness.files.records import ModelRef
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.store import read_json, reading
from kdbench.harness.identity import identity, model_id
from kdbench.harness.own_methods import METHODS
from kdbench.harness.registry import find_method
from kdbench.harness.runner.endpoint import card_of
from kdbench.harness.runner.published import published
from kdbench.harness.session import Session
from kdbench.tasks import mini
from kdbench.trainers.checkpoint import storing
from kdbench.trainers.lora.adapters import refuse_unfit
from kdbench.trainers.method import Card
from kdbench.trainers.model_folder import inspect_folder
from kdbench.trainers.models import (
    PRUNE,
    Comparison,
    compare,
    config_from,
    initialise,
    load_model,
    load_tokenizer,
    moved,
    prune,
    verify_model,
    vocabulary,
)


@dataclass(frozen=True, slots=True)
class Located:
    """A model that can be loaded: ``ref`` is a folder, .gguf file or hub id.

    ``recipe`` stands for a model that a seed makes, whatever the seed; empty for all others.
    """

    ref: str
    card: ModelRef
    recipe: str = ""

    @property
    def id(self) -> str:
        """The model by content; see `kdbench.harness.identity.model_id`."""
        return model_id(self.card)

    @property
    def content_name(self) -> str:
        """The model by name and content, for an adapter that is trained on it."""
        return f"{self.card.name}@sha256:{self.card.fingerprint}"

    def load(self, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
        """The model in eval mode.

        Raises:
            InputError: its weights were taken away by ``kdbench clean``.
        """
        if lost_weights(Path(self.ref)):
            raise InputError(
                f"the weights of {self.ref} were taken away by kdbench clean; what is stored of the run "
                f"stays as it is, but to ask its student more, take {Path(self.ref).parent} away and train "
                "it again with kdbench run and the settings of the run"
            )
        return moved(load_model(self.ref, dtype=dtype), device=device)


def student_of(run: RunFolder, name: str) -> Located:
    """The student of a run; one without its weights by what the run says of it."""
    folder = run.training.student
    card = run.summary.read().run.student if lost_weights(folder) else None
    if card is None:
        return locate(name, str(folder))
    return Located(str(folder), card.model_copy(update={"name": name}))


def same_world(pair: PairConfig) -> bool:
    """Whether teacher and student are the generated world's, with its tokenizer: then they fit unseen."""
    student = mini.world_model(pair.student)
    fits = student is not None and not mini.own_tokenizer(student[1])
    return fits and mini.world_model(pair.teacher) is not None


def locate(name: str, ref: str) -> Located:
    """A model that exists and is whole, with its fingerprint; hub ids are downloaded first.

    Raises:
        InputError: it cannot be had, or it is no causal language model with tokenizer and weights whole.
    """
    local = local_copy(ref)
    files = [local] if local.is_file() else sorted(p for p in local.iterdir() if p.is_file())
    _verify(str(local), tuple((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files))
    card = ModelRef(
        name=name,
        fingerprint=model_fingerprint(local),
        parameters=inspect_folder(local).parameters if local.is_dir() else 0,  # 0: GGUF
        tokenizer=tokenizer_fingerprint(local),
    )
    return Located(str(local), card)


@functools.lru_cache(maxsize=256)
def _verify(ref: str, stamps: tuple[tuple[str, int, int], ...]) -> None:
    """Whether a model and its tokenizer load and fit; remembered while its files stay the same."""
    model = verify_model(ref)
    vocabulary(load_tokenizer(ref), model)


def end_tokens(model: Located) -> list[Any]:
    """What a model's own files say ends an answer; a .gguf file's fingerprint, for it says it inside."""
    folder = Path(model.ref)
    if not folder.is_dir():
        return [model.card.fingerprint]
    files = [folder / name for name in ("generation_config.json", "config.json")]
    return [read_json(file).get("eos_token_id") for file in files if file.is_file()]


def base_student(session: Session, config: RunConfig, teacher: Located | None) -> Located:
    """The student before any training, as a folder: existing, pruned or random.

    The generated world's has nothing of its teacher, which may be None then.
    """
    spec = config.pair.student
    seed = config.train.seed_of_init
    seeded = True
    if PRUNE.match(spec) and teacher is not None:
        recipe, seeded = identity({"recipe": spec, "teacher": teacher.id}), False
    elif world := mini.world_model(spec):
        made = mini.model_config(world[1], world[0]).to_diff_dict()
        recipe = identity({"recipe": spec, "world": json.dumps(made, sort_keys=True, default=str)})
    elif spec.endswith(".json") and teacher is not None:
        # a tokenizer comes from the teacher; a file that is missing is reported by who loads it
        with reading(spec):
            text = Path(spec).read_text("utf-8") if Path(spec).is_file() else ""
        recipe = identity({"config": text, "tokenizer": teacher.card.tokenizer})
    else:
        return locate(spec, spec)
    place = session.cached("base", identity({"recipe": recipe, "seed": seed}) if seeded else recipe)

    def build(folder: Path) -> None:
        with storing(folder):
            if (source := published(place)).is_dir():
                shutil.copytree(source, folder, dirs_exist_ok=True)
                return
            model, tokenizer = _make_base(spec, seed, teacher)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    # by the first process: of others' models transformers saves nothing, without a word
    built = session.of_main(lambda: build_once(place, build, say=session.progress.say))
    base = locate(spec, str(built))
    return replace(base, recipe=recipe if seeded else "")


def check_adapters(config: RunConfig) -> None:
    """Refuses adapters that a model of the run cannot have, before anything is made for it.

    Raises:
        InputError: says which setting does not fit.
    """
    trainings = {
        "train": config.train,
        "init_sft": config.init_sft,
        "teacher_sft": config.teacher_sft,
    }
    for section, training in trainings.items():
        if training is not None and training.lora is not None:
            _refuse_four_bits(config, training, section)
            spec = config.pair.teacher if section == "teacher_sft" else config.pair.student
            # pruned, it has the layers of what it is pruned from, in fewer blocks
            spec = config.pair.teacher if PRUNE.match(spec) else spec
            world = mini.world_model(spec)
            place = str(Path(spec).expanduser()) if spec.startswith("~") else spec
            model = mini.model_config(world[1], world[0]) if world else config_from(place)
            refuse_unfit(model, training.lora, f"{section}.lora")


def _refuse_four_bits(config: RunConfig, training: TrainConfig, section: str) -> None:
    """Raises InputError where layers in four bits cannot be had."""
    assert training.lora is not None
    if not training.lora.quantize:
        return
    if training.precision == "fp64":
        raise InputError(
            f"{section}.lora.quantize: bitsandbytes multiplies in float32 or bfloat16; leave out "
            f"{section}.precision=fp64"
        )
    if config.parallel.shard != "none" and launch.world() > 1:
        raise InputError(
            f"{section}.lora.quantize: layers in four bits are not shared among processes; leave it out, or "
            "add --set parallel.shard=none"
        )


def _make_base(
    spec: str, seed: int, teacher: Located | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if world := mini.world_model(spec):
        size, role = world
        tokenizer = mini.tokenizer_of(role, size)
        return initialise(mini.model_config(role, size), seed), tokenizer
    assert teacher is not None, "only the generated world's student has nothing of its teacher"
    if found := PRUNE.match(spec):
        model = prune(load_model(teacher.ref), int(found.group(1)))
        return model, load_tokenizer(teacher.ref)
    return initialise(config_from(spec), seed), load_tokenizer(teacher.ref)


def behind_endpoint(config: RunConfig) -> Located | None:
    """The teacher, if it is asked over the network; nothing of it can be loaded."""
    place = place_of(config.pair.teacher)
    if place is None:
        return None
    return Located(config.pair.teacher, card_of(place, config.endpoint))


def shared_tokenizer(
    config: RunConfig, teacher: Located, student: Located, method: Card
) -> tuple[PreTrainedTokenizerBase, int]:
    """The student's tokenizer, and how many of its ids the teacher shares (0: it has its own).

    Raises:
        InputError: the method compares distributions but the tokenizers differ, or the student's
            prompts and ends are written with tokens that the teacher does not have.
    """
    tokenizer = load_tokenizer(student.ref)
    if place_of(teacher.ref):  # its answers are texts
        return tokenizer, compare(tokenizer, tokenizer).shared
    its = load_tokenizer(teacher.ref)
    found = compare(tokenizer, its)
    if method.same_tokenizer and not found.shared:
        able = [n for n in METHODS if not find_method(n).method.card.same_tokenizer]
        raise InputError(
            f"student {student.card.name!r} and teacher {teacher.card.name!r} have different tokenizers "
            f"({found.said}), but method {config.method.name} compares them token by token; choose a "
            f"pair with one tokenizer, or a method that can: {', '.join(able)}"
        )
    if config.teacher_sft is not None and found.shared < max(tokenizer.get_vocab().values()) + 1:
        raise InputError(
            "a teacher with its own tokenizer cannot be fine-tuned on the student's tokens; fine-tune "
            "it first and give its folder, with --set teacher_sft=null ("
            f"{found.said})"
        )
    if found.shared:
        _check_known(config, tokenizer, found, teacher)
    elif method.teacher_logits or method.teacher_samples:
        probe_ids(config, its)  # the teacher reads prompts in a format of its own
    return tokenizer, found.shared


def writes_alike(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether two tokenizers write a row in the same tokens, its chat format, begin and end too.

    Their files may differ all the same: a pruned student's are its teacher's, written anew.
    """
    if compare(one, other).said:
        return False
    formats = [(each.bos_token_id, each.chat_template) for each in (one, other)]
    probe = "a probe"
    return formats[0] == formats[1] and one.encode(probe) == other.encode(probe)


def _check_known(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, found: Comparison, teacher: Located
) -> None:
    """Refuses prompts and ends in tokens that the student's tokenizer has and the teacher's has not."""
    for token in probe_ids(config, tokenizer):
        if token >= found.shared:
            raise InputError(
                f"template {config.pair.template} writes {tokenizer.convert_ids_to_tokens(token)!r}, a token "
                f"that teacher {teacher.card.name!r} does not have ({found.said}); "
                f"choose another template, or a teacher that has it"
            )


def probe_ids(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of a small prompt in the run's format, and of what ends its answer.

    Raises:
        InputError: the tokenizer cannot write in that format.
    """
    form = config.training_format
    probe = render(Example(0, "a", "b", ("c",)), form, tokenizer)
    ids = encode(tokenizer, [probe], opening(tokenizer, form))[0]
    return [*ids, vocabulary(tokenizer, end=end_of(tokenizer, form)).eos_ids[0]]
