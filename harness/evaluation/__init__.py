"""Evaluations of one model: every task becomes prompts, samples and scores in a run folder."""
