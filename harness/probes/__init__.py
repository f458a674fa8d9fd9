"""Measurements that need a model beyond its sampled answers: one module a probe.

A probe's module has two functions, see `kdbench.harness.probes.subject.Probe`: ``settings``, what its
numbers depend on beyond task and model (None: it has nothing to measure there), and ``measure``, the
report.
"""

from typing import NamedTuple

from kdbench.tasks.protocols import Protocol


class Row(NamedTuple):
    """Where a probe is, and whether it compares the model with its teacher."""

    module: str
    needs_teacher: bool = False


PROBES = {
    "exposure": Row("kdbench.harness.probes.exposure", needs_teacher=True),
    "calibration": Row("kdbench.harness.probes.calibration"),
    "loss": Row("kdbench.harness.probes.loss"),
    "truth": Row("kdbench.harness.probes.truth"),
    "self_bleu": Row("kdbench.harness.probes.self_bleu"),
}
"""What ``--probes`` may name, in the order in which they run."""

TRUTH_SAMPLES = 10


def sampling(probe: str, samples: int | None, protocol: Protocol, seed: int) -> dict[str, int]:
    """Of a probe's settings those of the answers that it draws itself; empty if it draws none.

    Args:
        probe: its name.
        samples: answers a prompt; None: the probe's own number.
        protocol: that of the evaluation.
        seed: decoding seed of the first.
    """
    own = {"exposure": protocol.exposure_samples, "truth": TRUTH_SAMPLES}
    if probe not in own:
        return {}
    return {"samples": own[probe] if samples is None else samples, "seed": seed}
