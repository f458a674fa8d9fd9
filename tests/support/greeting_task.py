"""A third party's lm-eval task of generated answers, as YAML."""

from pathlib import Path

ROWS = """
task: greetings
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{output}}}}"
"""


def task_yaml(data: Path, how: str) -> str:
    """The task over rows of ``prompt`` and ``output``; ``how`` it is answered and scored, as YAML."""
    return ROWS.format(data=data) + how
