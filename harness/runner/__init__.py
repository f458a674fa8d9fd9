"""The verbs that make runs: each is a short list of stages that meet only through files."""
