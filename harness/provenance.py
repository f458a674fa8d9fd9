"""Where a result comes from: versions, our code as commit and diff, hardware.

Everything here is read from the machine and can fail softly (no git, a wheel, no /proc): an absent
fact is None or left out, never guessed.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Code(NamedTuple):
    """State of our own source: ``commit`` and ``diff`` are None outside a git checkout.

    ``sha256`` is over the source files themselves, so that a wheel and a checkout can be compared
    and drift is seen with or without git.
    """

    commit: str | None
    diff: str | None
    sha256: str

    @property
    def diff_sha256(self) -> str | None:
        """Hash of the uncommitted changes; None outside git."""
        return None if self.diff is None else hashlib.sha256(self.diff.encode()).hexdigest()


@functools.cache
def code_state() -> Code:
    """Commit, uncommitted changes and content hash of the kdbench that is running."""
    folders = source_folders()
    root = folders["harness"].parent
    commit = diff = None
    # A wheel may be installed below someone else's repository: only a checkout of ours counts.
    if (root / "pyproject.toml").is_file() and (root / ".git").exists():
        commit = _git(root, "rev-parse", "HEAD")
        diff = _git(root, "diff", "HEAD", "--", *folders)
        untracked = _git(root, "ls-files", "--others", "--exclude-standard", "--", *folders)
        if diff is not None and untracked:
            diff += f"\n# untracked files:\n{untracked}"
    return Code(commit and commit.strip(), diff, source_sha256())


@functools.cache
def source_sha256() -> str:
    """Hash of the source files of the kdbench that is running."""
    return tree_sha256(source_folders())


def tree_sha256(folders: Mapping[str, Path]) -> str:
    """Hash of the Python and YAML files in some folders, by name of the folder."""
    digest = hashlib.sha256()
    for name, folder in folders.items():
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".yaml")):
            if "__pycache__" not in path.parts:
                digest.update(f"{name}/{path.relative_to(folder).as_posix()}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def source_folders() -> dict[str, Path]:
    """Where our packages are installed, found without importing them."""
    found = {}
    for name in ("harness", "trainers", "tasks", "reports"):
        spec = importlib.util.find_spec(f"kdbench.{name}")
        if spec is not None and spec.submodule_search_locations:
            found[name] = Path(spec.submodule_search_locations[0])
    return found


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.SubprocessError):  # no git, or a very slow one
        return None
    return done.stdout if done.returncode == 0 else None


def hardware(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, memory, and the accelerator if one is used."""
    facts: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": available_cores(),
        "memory_gb": round(total_memory() / 2**30, 1),
        "device": device,
    }
    if device.startswith("cuda"):
        import torch

        facts["accelerator"] = torch.cuda.get_device_name(device)
        facts["accelerators"] = torch.cuda.device_count()
        facts["cuda"] = torch.version.cuda
    return facts


def available_cores() -> int:
    """Processor cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def total_memory() -> int:
    """Bytes of main memory; 0 if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
