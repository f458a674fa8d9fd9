"""Resumable state, best weights and the exported student of a training on disk.

Without pickle: tensors in safetensors, the rest in JSON. A checkpoint is a folder that appears by
one rename, so a kill leaves either the old one or the new one; what it holds decides the rest of the
training to the last bit. ``torch.distributed.checkpoint``'s state-dict functions give whole tensors by
plain names whether the module is bare or wrapped; the main rank writes them. Of a student that is
shared among processes each writes its part (`kdbench.trainers.parallel.shards`) while training goes on;
either is read by any number of processes, sharing or not.
"""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness.errors import InputError
from kdbench.harness.files.folders import new_folder
from kdbench.harness.files.store import make_folder, read_json, write_json
from kdbench.harness.foreign import foreign
from kdbench.trainers.lora.adapters import write_adapter
from kdbench.trainers.lora.merging import Adapted
from kdbench.trainers.parallel import shards
from kdbench.trainers.parallel.export import is_streamable, write_model
from kdbench.trainers.parallel.ranks import of_main, together
from kdbench.trainers.parallel.tensors import is_shared
from kdbench.trainers.types import Sequence

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
# not strict: of tied tensors only one name is stored, of a model with adapters only these
LOAD = StateDictOptions(full_state_dict=True, strict=False)
SHARDS = "shards"
"""Folder, in that of a checkpoint, of what each process holds."""
ANEW = "take the folder checkpoints away; the training then begins anew"


@dataclass(slots=True)
class Checkpoints:
    """What one training keeps in its folder ``out``; see `kdbench.trainers.loop`."""

    accelerator: Accelerator
    module: torch.nn.Module
    optimizer: Any
    out: Path
    adapted: Adapted | None = None
    _beside: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 1))
    _pending: "tuple[Path, Future[None]] | None" = None

    def __post_init__(self) -> None:
        if self._shared:
            shards.beside()  # what keeps the processes from each other shows before they train

    @property
    def folder(self) -> Path:
        """Where checkpoints and best weights are, until the student stands."""
        return self.out / "checkpoints"

    def save(self, step: int, state: dict[str, Any], *, best: int) -> None:
        """Checkpoint ``step``: ``state`` with weights and optimiser state.

        Once it stands, older ones go, and the best weights of all steps but ``best``. That of a shared
        student is written beside the training; see `settle`.
        """
        place = self.folder / f"step-{step:08d}"
        bare, optimizer = self._bare, self.optimizer.optimizer
        then = partial(self._drop_older, best)
        if self._shared:
            held = shards.held(bare, optimizer)
            self._begin_shards(place, held, {**state, "numbers": shards.numbers_of(held)}, then)
            return
        moments = get_optimizer_state_dict(bare, optimizer, options=WHOLE)
        state = {**state, "model": self._weights(), "optimizer": moments}
        if self.accelerator.is_main_process:
            write_state(place, state)
        then()
        self.accelerator.wait_for_everyone()

    def settle(self) -> None:
        """Returns once what was begun stands; a collective.

        Raises:
            InputError: a process could not write; on all of them.
        """
        if self._pending is None:
            return
        place, done = self._pending
        self._pending = None
        with storing(place):
            together(done.result)

    def close(self) -> None:
        """Returns once nothing is written any more, whatever becomes of it: for a training that failed."""
        self._beside.shutdown(wait=True)

    def _drop_older(self, best: int) -> None:
        if not self.accelerator.is_main_process:
            return
        for old in saved(self.folder)[:-1]:
            _drop(old)
        for old in sorted({*self.folder.glob("best-*")} - {self._best(best)}):
            shutil.rmtree(old)

    def resume(self) -> dict[str, Any] | None:
        """Loads weights and optimiser of the newest checkpoint; returns the rest of its state."""
        main = self.accelerator.is_main_process
        found = of_main(lambda: saved(self.folder), main=main)
        if not found:
            return None
        *older, newest = found
        try:
            return self._restored(newest)
        except InputError:
            if not older:
                raise
            return self._restored(older[-1])  # a kill left it: the newest stood a moment before

    def _restored(self, folder: Path) -> dict[str, Any]:
        with foreign(f"cannot go on from {folder}", ANEW):
            state: dict[str, Any] = together(lambda: read_state(folder))
            if (numbers := state.pop("numbers", None)) is not None:
                optimizer = self.optimizer.optimizer
                shards.read_shards(folder / SHARDS, numbers, self._bare, optimizer)
                return state
            set_model_state_dict(self._bare, state.pop("model"), options=LOAD)
            set_optimizer_state_dict(
                self._bare, self.optimizer.optimizer, state.pop("optimizer"), options=LOAD
            )
        return state

    def save_best(self, step: int) -> None:
        """Keeps today's weights as the best, beside those that the newest checkpoint names."""
        if self._shared:
            held = shards.held(self._bare, None)
            self._begin_shards(self._best(step), held, {"numbers": shards.numbers_of(held)})
            return
        weights = self._weights()
        if self.accelerator.is_main_process:
            with storing(self._best(step)), new_folder(self._best(step)) as folder:
                save_file(weights, folder / "model.safetensors")

    def load_best(self, step: int) -> None:
        """Puts the weights that were the best at ``step`` into the module."""
        self.settle()
        best = self._best(step)
        with foreign(f"cannot read the best weights in {best}", ANEW):
            if (best / SHARDS).is_dir():
                numbers = read_state(best)["numbers"]
                shards.read_shards(best / SHARDS, numbers, self._bare, None)
                return
            weights: dict[str, Any] = load_file(best / "model.safetensors")
            set_model_state_dict(self._bare, weights, options=LOAD)

    def export(self, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """``student/``: an ordinary Hugging Face folder of the trained model.

        With adapters these are merged into it, and kept beside it in ``adapter/``.
        """
        place = self.out / "student"
        if self.adapted is None and is_streamable(student):
            with self._appearing(place) as path:
                write_model(student, path)
                together(lambda: tokenizer and path and tokenizer.save_pretrained(path))
            return
        mine: dict[str, torch.Tensor] | None = None
        if self.adapted is None:
            mine = _whole_weights(student)
            if self._shared:  # gathered by all their names, tied ones apart
                once = {name for name, _ in [*student.named_parameters(), *student.named_buffers()]}
                mine = {name: value for name, value in mine.items() if name in once}
        else:
            student = self._merged(self.adapted) or student
        if self.accelerator.is_main_process:
            with storing(place), new_folder(place) as path:
                student.save_pretrained(path, state_dict=mine)
                if tokenizer is not None:
                    tokenizer.save_pretrained(path)
        self.accelerator.wait_for_everyone()

    def _merged(self, adapted: Adapted) -> PreTrainedModel | None:
        """In the first process the adapter in its folder and the merged student."""
        main, place = self.accelerator.is_main_process, self.out / "adapter"
        learnt = adapted.weights()

        def write() -> None:
            if main:
                write_adapter(adapted, learnt, place)

        with storing(place):
            together(write)
        base = together(lambda: adapted.load_base() if main else None)
        adapted.merge_into(base)
        return base

    @contextmanager
    def _appearing(self, place: Path) -> Iterator[Path | None]:
        """In the first process a new folder, see `new_folder`; None in the others. All fail together."""
        with ExitStack() as stack:
            stack.enter_context(storing(place))
            new = new_folder(place) if self.accelerator.is_main_process else nullcontext()
            yield together(lambda: stack.enter_context(new))
            together(stack.close)

    def _begin_shards(
        self,
        place: Path,
        held: dict[str, Any],
        state: dict[str, Any],
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Begins a folder with every process's part of a state, and the rest of it.

        It appears by one rename when all parts stand; ``then`` comes after it.
        """
        self.settle()
        main = self.accelerator.is_main_process

        def room() -> Path | None:
            if not main:
                return None
            made = new.enter_context(new_folder(place))
            write_parts(made, state)
            return make_folder(made / SHARDS)

        with storing(place), ExitStack() as new:
            box = [together(room)]
            broadcast_object_list(box)
            assert box[0] is not None
            written = shards.write_shards(box[0], held)
            self._pending = place, self._beside.submit(_appear, written, new.pop_all(), then)

    @property
    def _shared(self) -> bool:
        return is_shared(self.module)

    @property
    def _bare(self) -> torch.nn.Module:
        return self.accelerator.unwrap_model(self.module)

    def _weights(self) -> dict[str, torch.Tensor]:
        """What changes in training: of a student with adapters not its base."""
        if self.adapted is None:
            return _untied(_whole_weights(self._bare))
        extra = self._bare.get_submodule("extra").state_dict()
        own = {f"extra.{name}": value.cpu() for name, value in extra.items()}
        learnt = {n: p.detach().cpu() for n, p in self._bare.named_parameters() if p.requires_grad}
        return learnt | own

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}"


def _appear(written: "Future[Any]", new: ExitStack, then: Callable[[], None]) -> None:
    """Lets a new folder appear once all parts stand; in the first process, for the others have none."""
    with new:
        shards.wait(written)
    then()


def storing(place: Path) -> AbstractContextManager[None]:
    """Turns what a full disk makes of the libraries that write tensors and tokenizers into one sentence."""
    return foreign(f"cannot write {place}", "free some space or choose a writable place")


def drop_checkpoints(out: Path) -> None:
    """Frees what only resuming needs, once the training in ``out`` is marked as done."""
    for folder in saved(out / "checkpoints"):
        _drop(folder)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def _drop(checkpoint: Path) -> None:
    (checkpoint / "state.json").unlink()  # a kill from here on leaves no half checkpoint
    shutil.rmtree(checkpoint)


def saved(folder: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-????????") if (p / "state.json").is_file())


def write_state(folder: Path, state: Any) -> None:
    """Writes nested dicts and lists of tensors, sequences and JSON values as a folder."""
    with storing(folder), new_folder(folder) as path:
        write_parts(path, state)


def write_parts(folder: Path, state: Any) -> None:
    """The same into a folder that is there."""
    skeleton, tensors = flatten(state)
    save_file(tensors, folder / "state.safetensors")
    write_json(folder / "state.json", skeleton)


def read_state(folder: Path) -> Any:
    """Inverse of :func:`write_state` (tuples come back as lists, keys as strings)."""
    return unflatten(read_json(folder / "state.json"), load_file(folder / "state.safetensors"))


def flatten(state: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Splits a state into a JSON skeleton and named tensors."""
    tensors: dict[str, torch.Tensor] = {}

    def skeleton(value: Any, name: str) -> Any:
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach().cpu().contiguous().clone()
            return {"__tensor__": name}
        if isinstance(value, dict):
            return {str(k): skeleton(v, f"{name}/{k}") for k, v in value.items()}
        if isinstance(value, list | tuple):
            if value and all(isinstance(v, Sequence) for v in value):
                return {"__sequences__": skeleton(_packed(value), name)}
            return [skeleton(v, f"{name}/{i}") for i, v in enumerate(value)]
        return value

    return skeleton(state, ""), tensors


def unflatten(skeleton: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Inverse of :func:`flatten`."""
    if isinstance(skeleton, list):
        return [unflatten(v, tensors) for v in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if set(skeleton) == {"__tensor__"}:
        return tensors[skeleton["__tensor__"]]
    found = {k: unflatten(v, tensors) for k, v in skeleton.items()}
    return _unpacked(found["__sequences__"]) if set(found) == {"__sequences__"} else found


def _packed(sequences: Any) -> dict[str, Any]:
    """Sequences as plain state; one tensor a column, not one a sequence."""
    return {
        "prompts": [s.prompt for s in sequences],
        "responses": [s.response for s in sequences],
        "keys": [s.key for s in sequences],
        "columns": {n: torch.cat([s.columns[n] for s in sequences]) for n in sequences[0].columns},
    }


def _unpacked(state: dict[str, Any]) -> list[Sequence]:
    lengths = [len(r) for r in state["responses"]]
    columns = {n: [c.clone() for c in v.split(lengths)] for n, v in state["columns"].items()}
    rows = zip(state["prompts"], state["responses"], state["keys"], strict=True)
    return [
        Sequence(tuple(p), tuple(r), k, {n: c[i] for n, c in columns.items()})
        for i, (p, r, k) in enumerate(rows)
    ]


def _whole_weights(
    module: torch.nn.Module, options: StateDictOptions = WHOLE
) -> dict[str, torch.Tensor]:
    """All weights of a module, or those that are trained, unsharded, on the CPU of the main rank."""
    state = get_model_state_dict(module, options=options)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _untied(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drops all but the first name of tensors that share memory; loading ties them again."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in weights.items():
        if not tensor.numel() or tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            kept[name] = tensor.contiguous()
    return kept
