"""Writes docs/ablations.md from finished studies: ``python docs/make_ablations.py STUDIES NAME…``.

``STUDIES/NAME`` is what ``kdbench ablate NAME`` wrote; the text between the tables is
``docs/ablation-notes.yaml``.
"""

import shutil
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent


def page(studies: Path, names: list[str]) -> str:
    """The whole page; figures are copied beside it."""
    notes = yaml.safe_load((HERE / "ablation-notes.yaml").read_text(encoding="utf-8"))
    pictures = HERE / "ablations"
    pictures.mkdir(exist_ok=True)
    parts = ["# Ablations on `mini`", notes["intro"].strip()]
    for name in names:
        shutil.copyfile(studies / name / "differences.png", pictures / f"{name}.png")
        table = (studies / name / "table.md").read_text(encoding="utf-8").strip()
        parts += [
            f"## `kdbench ablate {name}`",
            table.replace("## ", "**", 1).replace("\n", "**\n", 1),
            f"![Differences to the base of study {name}](ablations/{name}.png)",
            notes[name].strip(),
        ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    text = page(Path(sys.argv[1]), sys.argv[2:])
    (HERE / "ablations.md").write_text(text, encoding="utf-8")
