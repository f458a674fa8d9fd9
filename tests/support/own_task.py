"""A third party's multiple-choice task on three rows of a local file."""

import json
from pathlib import Path


def write(folder: Path, changed: str) -> None:
    """A working task, with one line of its file replaced by others."""
    rows = [{"question": f"Word {n}", "choices": ["a", "b"], "gold": n % 2} for n in range(3)]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": json.dumps({"data_files": {"test": str(data)}}),
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "question",
        "doc_to_target": "gold",
        "doc_to_choice": "choices",
        "metric_list": "[{metric: acc, aggregation: mean, higher_is_better: true}]",
    }
    for line in changed.splitlines():
        key, value = line.split(": ", 1)
        lines[key] = value
    (folder / "own.yaml").write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
