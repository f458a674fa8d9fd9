"""Measurements that need a model beyond its sampled answers: one module a probe."""

PROBES = ("exposure", "calibration", "loss", "truth", "self_bleu")
"""What ``--probes`` may name, in the order in which they run."""
