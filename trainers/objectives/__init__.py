"""Objectives as pure functions of logits or log-probabilities."""
