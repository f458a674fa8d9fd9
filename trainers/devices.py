"""Where and in which precision the arithmetic runs."""

import torch

from kdbench.trainers.cpu import has_matrix_units
from kdbench.trainers.optim import Precision


def resolve_precision(asked: Precision, device: torch.device) -> Precision:
    """``auto`` becomes bf16 where the hardware multiplies it faster than float32, else fp32.

    A CPU needs matrix units (AMX) for that: with AVX512-BF16 alone bfloat16 products ran at half the
    rate of float32 (76 against 142 GFLOP/s a core).
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu" and has_matrix_units():
        return "bf16"
    return "fp32"


def sampling_dtype(precision: str) -> torch.dtype:
    """The dtype of a model that is only evaluated (teacher, sampling); fp16 becomes bf16, which
    overflows less.
    """
    names = {"fp32": torch.float32, "fp64": torch.float64}
    return names.get(precision, torch.bfloat16)


def forget_peak(device: torch.device) -> None:
    """Lets `peak_memory_mb` count from now on; a CPU's process keeps its highest."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory so far: of the device since `forget_peak`, or of the process on a CPU (MiB)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
