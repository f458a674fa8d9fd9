"""What all stages of one command share: the request, the device, where shared results are kept."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from kdbench.harness.config import Request, RunConfig, with_precision
from kdbench.harness.progress import Progress
from kdbench.harness.records import StageCost
from kdbench.trainers.devices import peak_memory_mb, resolve_precision

if TYPE_CHECKING:
    from kdbench.harness.config import TrainConfig

MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16", "fp64": "no"}


@dataclass(slots=True)
class Session:
    """One command.

    Attributes:
        request: as resolved by the verb.
        config: its run, with precision resolved for this machine.
        progress: lines for a person to read.
        costs: what stages of this command cost, by stage.
    """

    request: Request
    config: RunConfig
    progress: Progress
    costs: dict[str, StageCost] = field(default_factory=dict)
    _accelerators: dict[str, Accelerator] = field(default_factory=dict)

    def accelerator(self, training: "TrainConfig | None" = None) -> Accelerator:
        """The accelerator for a precision; made once (accelerate keeps process-wide state)."""
        precision = (training or self.config.train).precision
        mixed = MIXED[precision]
        if mixed not in self._accelerators:
            self._accelerators[mixed] = Accelerator(
                cpu=self.request.device == "cpu" or not torch.cuda.is_available(),
                mixed_precision=mixed,
            )
        return self._accelerators[mixed]

    @property
    def device(self) -> torch.device:
        """Where models live."""
        return self.accelerator().device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files."""
        return self.accelerator().is_main_process

    def cached(self, kind: str, identity: str) -> Path:
        """Folder of a shared result: ``<cache>/<kind>/<id>``."""
        return self.request.cache_dir / kind / identity[:16]

    def cost(self, stage: str, wall_s: float, **tokens: int) -> None:
        """Books what a stage cost; a resumed stage adds up."""
        before = self.costs.get(stage, StageCost(wall_s=0.0))
        added = {k: before.tokens.get(k, 0) + v for k, v in tokens.items()}
        self.costs[stage] = StageCost(
            wall_s=before.wall_s + wall_s,
            tokens=before.tokens | added,
            peak_mb=max(before.peak_mb, peak_memory_mb(self.device)),
        )


def open_session(request: Request, progress: Progress) -> Session:
    """A session on the device asked for, with every ``auto`` precision resolved."""
    device = torch.device("cuda" if torch.cuda.is_available() and request.device != "cpu" else "cpu")
    precision = resolve_precision("auto", device)
    torch.use_deterministic_algorithms(device.type == "cpu", warn_only=True)
    return Session(request, with_precision(request.config, precision), progress)


def plain(value: Any) -> Any:
    """Paths and tuples as JSON has them."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value
