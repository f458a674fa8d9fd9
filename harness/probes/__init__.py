"""Measurements that need a model beyond its sampled answers: one module a probe.

A probe's module has two functions, see `kdbench.harness.probes.subject.Probe`: ``settings``, what its
numbers depend on beyond task and model (None: it has nothing to measure there), and ``measure``, the
report.
"""

from typing import NamedTuple


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
