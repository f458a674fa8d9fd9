"""Which lm-eval scores, told without importing it: that takes seconds."""

from importlib.metadata import version


def scorer() -> str:
    """Version of scores that lm-eval makes, and of what is made of them here."""
    return f"lm-eval {version('lm_eval')}, 2"
