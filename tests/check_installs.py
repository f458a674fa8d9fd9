"""Checks that kdbench works however it is installed; a script of tox's ``wheel`` environment, not a test.

As a wheel, from the sdist, and from an unpacked sdist as an editable package, lenient and strict: the
package says its version, finds its modules in all folders, and imports nothing heavy. Dependencies are
not installed, and none of this needs them.
"""

import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

PROGRAM = """
import sys, kdbench
from importlib.util import find_spec
assert kdbench.__version__ == {version!r}, kdbench.__version__
assert issubclass(kdbench.InputError, ValueError)
for name in ("harness.api.running", "trainers.loop", "tasks.catalogue", "reports.board", "__main__"):
    assert find_spec(f"kdbench.{{name}}"), name
assert {{"run", "evaluate", "leaderboard", "load_run"}} <= set(dir(kdbench))
assert not {{"torch", "pandas", "pydantic"}} & set(sys.modules)
"""


def installs(dist: Path, scratch: Path) -> Iterator[tuple[str, list[str]]]:
    """What is installed, and what pip is told."""
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    yield "wheel", [str(wheel)]
    yield "sdist", [str(sdist)]
    for kind in ("lenient", "strict"):
        with tarfile.open(sdist) as archive:
            # Python 3.11.3 and older have no filter; the archive is our own
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(scratch / kind)
        (source,) = (scratch / kind).iterdir()
        mode = ["--config-settings", "editable_mode=strict"] if kind == "strict" else []
        yield f"editable, {kind}", [*mode, "--editable", str(source)]


def main(dist: Path) -> int:
    """Installs each way into an environment of its own."""
    version = next(dist.glob("*.whl")).name.split("-")[1]
    problems = 0
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for number, (kind, told) in enumerate(installs(dist, scratch)):
            place = scratch / f"venv{number}"
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
            python = place / ("Scripts" if sys.platform == "win32" else "bin") / "python"
            pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
            subprocess.run([*pip, "--no-deps", *told], check=True)
            code = PROGRAM.format(version=version)
            done = subprocess.run([python, "-c", code], cwd=scratch, check=False)
            problems += done.returncode != 0
            print(f"{kind}: {'failed' if done.returncode else 'ok'}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
