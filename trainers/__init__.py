"""Distillation methods and what they stand on: one loop, one head, one sampler."""
