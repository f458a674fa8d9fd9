"""Weights and resumable state of a training on disk, for any accelerate backend.

``torch.distributed.checkpoint``'s state-dict functions give whole, unsharded tensors by plain names
whether the module is bare or wrapped; the main rank writes them.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness.files.folders import new_folder
from kdbench.trainers import checkpoint

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
# not strict: of tied tensors only one name is stored
LOAD = StateDictOptions(full_state_dict=True, strict=False)


@dataclass(slots=True)
class Snapshots:
    """The folder ``out`` of one training; see `kdbench.trainers.loop`."""

    accelerator: Accelerator
    module: torch.nn.Module
    optimizer: Any
    out: Path

    @property
    def _bare(self) -> torch.nn.Module:
        module: torch.nn.Module = self.accelerator.unwrap_model(self.module)
        return module

    def _weights(self) -> dict[str, torch.Tensor]:
        return untied(whole_weights(self._bare))

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Checkpoint ``step``: ``state`` with weights and optimiser state."""
        optimizer = get_optimizer_state_dict(self._bare, self.optimizer.optimizer, options=WHOLE)
        state = {**state, "model": self._weights(), "optimizer": optimizer}
        if self.accelerator.is_main_process:
            checkpoint.save(self.out / "checkpoints", step, state)
        self.accelerator.wait_for_everyone()

    def resume(self) -> tuple[int, dict[str, Any]] | None:
        """Loads weights and optimiser of the newest checkpoint; returns its step and state."""
        found = checkpoint.load_latest(self.out / "checkpoints")
        if found is not None:
            _, state = found
            set_model_state_dict(self._bare, state.pop("model"), options=LOAD)
            set_optimizer_state_dict(
                self._bare, self.optimizer.optimizer, state.pop("optimizer"), options=LOAD
            )
        return found

    def _best(self, step: int) -> Path:
        return self.out / "checkpoints" / f"best-{step:08d}"

    def save_best(self, step: int) -> None:
        """Keeps today's weights as the best, beside those that the newest checkpoint names."""
        weights = self._weights()
        if self.accelerator.is_main_process:
            with new_folder(self._best(step)) as folder:
                save_file(weights, folder / "model.safetensors")

    def load_best(self, step: int) -> None:
        """Puts the weights that were the best at ``step`` into the module."""
        weights: dict[str, Any] = load_file(self._best(step) / "model.safetensors")
        set_model_state_dict(self._bare, weights, options=LOAD)

    def drop_best(self, *, but: int) -> None:
        """Removes all best weights but those of one step, once a checkpoint that names it stands."""
        if self.accelerator.is_main_process:
            for folder in (self.out / "checkpoints").glob("best-*"):
                if folder != self._best(but):
                    shutil.rmtree(folder)

    def export(self, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Path:
        """``student/``: an ordinary Hugging Face folder of the trained model."""
        prefix = "student."
        weights = whole_weights(self._bare)
        mine = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        folder = self.out / "student"
        if self.accelerator.is_main_process:
            with new_folder(folder) as path:
                student.save_pretrained(path, state_dict=mine)
                if tokenizer is not None:
                    tokenizer.save_pretrained(path)
        self.accelerator.wait_for_everyone()
        return folder


def whole_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All weights of a module, unsharded, on the CPU of the main rank."""
    state = get_model_state_dict(module, options=WHOLE)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def untied(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drops all but the first name of tensors that share memory; loading ties them again."""
    seen: set[int] = set()
    kept = {}
    for name, tensor in weights.items():
        if tensor.numel() and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        kept[name] = tensor.contiguous()
    return kept
