"""Checks a built wheel; a script of tox's ``wheel`` environment, not a test.

It must hold every module and data file of our four folders and nothing else (harness/package is the top of
``kdbench``), and put nothing but
``kdbench`` and its metadata into site-packages: a top-level ``tasks`` or ``tests`` would shadow
someone else's.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDERS = ("harness", "trainers", "tasks", "reports")
TOP = "harness/package/"
KINDS = {".py", ".typed", ".yaml", ".html", ".csv", ".jinja", ".css", ".js"}
KINDS |= {".json", ".done", ".safetensors"}  # trainings that come with kdbench
NAME = re.compile(r"kdbench(-[\w.]+\.dist-info)?")


def main(dist: Path) -> int:
    """Installs the one wheel in ``dist`` without dependencies and compares it with the source."""
    (wheel,) = dist.glob("*.whl")
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as name:
        site = Path(name)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--target", name, str(wheel)], check=True)
        problems = [
            f"puts {entry.name} into site-packages"
            for entry in site.iterdir()
            if entry.name != "bin" and not NAME.fullmatch(entry.name)
        ]
        installed = {
            path.relative_to(site / "kdbench").as_posix()
            for path in (site / "kdbench").rglob("*")
            if path.is_file()
        }
    source = {
        path.relative_to(root).as_posix().removeprefix(TOP)
        for folder in FOLDERS
        for path in (root / folder).rglob("*")
        if path.is_file() and path.suffix in KINDS and "__pycache__" not in path.parts
    }
    problems += [f"lacks {path}" for path in sorted(source - installed)]
    problems += [f"has {path}, which the source has not" for path in sorted(installed - source)]
    for problem in problems:
        print(f"{wheel.name} {problem}", file=sys.stderr)
    print(f"{wheel.name}: {len(installed)} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
