"""Versions of what a number may depend on, read from installed packages without importing them."""

import contextlib
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "kdbench", "torch", "transformers", "accelerate", "lm-eval", "datasets", "tokenizers",
    "safetensors", "numpy", "scipy", "rapidfuzz", "nltk", "rouge-score", "pydantic",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a number may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
