"""Import rules that layers cannot say: one door for each foreign library, and a light command."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "lm_eval", "datasets", "pandas", "matplotlib", "openai", "scipy"}
LIGHT = ("cli", "verbs", "config", "resolve", "registry", "provenance", "progress", "files")
LIGHT += ("identity", "contents", "metrics", "errors")


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of kdbench as (dotted name, syntax tree)."""
    for package in ("harness", "trainers", "tasks", "reports"):
        root = Path(str(files(f"kdbench.{package}")))
        for path in sorted(root.rglob("*.py")):
            name = ".".join((package, *path.relative_to(root).with_suffix("").parts))
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of the packages that a tree imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


DOORS = {
    "lm_eval": "harness.lm",
    "httpcore2": "harness.judge.transport",
    "openai": "harness.judge.client",
    "peft": "trainers.lora.adapters",
    "matplotlib": "reports.figures.plotting",
}
"""Which module, or package, of ours meets a library that is large or moves."""


@pytest.mark.parametrize("library", DOORS)
def test_one_door(library: str) -> None:
    door = DOORS[library]
    users = [name for name, tree in modules() if library in imported(tree)]
    strangers = [name for name in users if name != door and not name.startswith(f"{door}.")]
    assert users and not strangers, f"{library} is imported in {', '.join(strangers)}"


def test_no_circles_and_few_layers() -> None:
    root = Path(__file__).parents[1]
    spec = spec_from_file_location("structure", root / "benchmarks" / "structure.py")
    assert spec is not None and spec.loader is not None
    structure = module_from_spec(spec)
    spec.loader.exec_module(structure)
    assert structure.circles(structure.imports(root)) == []
    assert structure.layers(root) <= 10
    assert len(list((root / "reports").glob("*.py"))) <= 25


def test_nothing_heavy_at_the_top_of_light_modules() -> None:
    for name, tree in modules():
        package, _, rest = name.partition(".")
        if package != "harness" or rest.partition(".")[0] not in LIGHT:
            continue
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        heavy = imported(ast.Module(list(top), [])) & HEAVY
        assert not heavy, f"{name} imports {', '.join(heavy)} before it is needed"


def test_our_packages_are_imported_by_their_full_names() -> None:
    for name, tree in modules():
        bare = imported(tree) & {"harness", "trainers", "tasks", "reports"}
        assert not bare, f"{name} imports {', '.join(bare)} without kdbench."


def test_files_and_functions_stay_small() -> None:
    for name, tree in modules():
        lines = max((getattr(node, "end_lineno", 0) or 0 for node in tree.body), default=0)
        assert lines <= 400, f"{name} has {lines} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= 60, f"{name}.{node.name} has {length} lines"


def test_a_run_imports_no_library_that_its_tasks_do_not_need() -> None:
    code = (
        "import sys, kdbench.harness.runner.commands; "
        "print(*({'lm_eval', 'datasets', 'nltk', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
