"""Checks that ruff judges imports alike whatever folders a user makes in a checkout; a script of
tox's ``lint`` environment, not a test.

``kdbench run`` writes ``runs/``. A folder of the name of a module that tests import was taken for the
package of that name, and sorted imports were errors.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> int:
    """Lints a copy of the tests beside a folder for each module that tests import from here."""
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        shutil.copy(root / "pyproject.toml", copy)
        shutil.copytree(root / "tests", copy / "tests", ignore=shutil.ignore_patterns("data"))
        for module in (root / "tests" / "support").glob("*.py"):
            folder = copy / module.stem
            folder.mkdir()
            (folder / "config.json").write_text("{}")
        return subprocess.run(["ruff", "check", "--no-cache", copy], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
