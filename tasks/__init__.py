"""Evaluation tasks: prompts, scoring and the generated mini world."""
