"""How much house there is: files crossed on the three ways through, layers, circles, code lines.

    python benchmarks/structure.py                      # this checkout
    python benchmarks/structure.py --repo OTHER --json  # another one, of an older commit for example

Needs an environment in which kdbench's dependencies are installed; the checkout itself need not be.
A file is crossed if one of its functions runs (module bodies do not count) on one core:

* step: an optimiser step of ``fkd``, without what follows it (logging, evaluation, checkpoint);
* evaluation: one task of a loaded model (the second of two), from prepared prompts to stored scores;
* board: a terminal leaderboard of two methods and three training seeds, paired tests included.

Code lines are those with a token that is neither a comment nor a docstring, as the formatter leaves
them. A circle is a set of modules that import each other, imports inside functions included.
"""

import argparse
import ast
import io
import json
import os
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator, Set
from pathlib import Path

FOLDERS = ("harness", "trainers", "tasks", "reports")
WAYS = {
    "step": {"begin": ["Loop._step"], "pause": ["Loop._after"], "last": False},
    "evaluation": {"begin": ["generate_and_score"], "pause": [], "last": True},
    "board": {"begin": ["leaderboard"], "pause": [], "last": False},
}
PLAIN = "import sys; from kdbench.harness.cli import main; main(sys.argv[1:])"
TRACED = """
import json, os, sys, threading
root, way, out = os.environ["STRUCTURE"].split("\\n")
way = json.loads(way)
crossed, depth, paused = {}, 0, 0
def seen(frame, event, argument):
    global depth, paused
    code = frame.f_code
    if event not in ("call", "return") or not code.co_filename.startswith(root):
        return
    turn = 1 if event == "call" else -1
    if code.co_qualname in way["pause"]:
        paused += turn
    if code.co_qualname in way["begin"] and "/verbs/" not in code.co_filename:
        if event == "call" and not depth and way["last"]:
            crossed.clear()
        depth += turn
    if depth > 0 and not paused and event == "call" and code.co_name != "<module>":
        crossed.setdefault(os.path.relpath(code.co_filename, root), set()).add(code.co_qualname)
from kdbench.harness.cli import main
sys.setprofile(seen)
threading.setprofile(seen)
try:
    main(sys.argv[1:])
except SystemExit as ended:
    if ended.code:
        raise
finally:
    sys.setprofile(None)
    with open(out, "w") as file:
        json.dump({name: len(functions) for name, functions in sorted(crossed.items())}, file)
"""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repo", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--files", action="store_true", help="name the files that are crossed")
    options = parser.parse_args()
    repo = options.repo.resolve()
    crossed = ways_through(repo)
    found = {
        "files crossed": {way: len(files) for way, files in crossed.items()},
        "functions": {way: sum(files.values()) for way, files in crossed.items()},
        "import layers": layers(repo),
        "circles": circles(imports(repo)),
        "files in reports/": len(
            [p for p in (repo / "reports").glob("*.py") if p.stem != "__init__"]
        ),
        "code lines": {name: code_lines(repo / name) for name in FOLDERS},
    }
    found["code lines"]["all"] = sum(found["code lines"].values())
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:18} {value}")
    if options.files:
        for way, files in crossed.items():
            print(f"\n{way}:\n  " + "\n  ".join(f"{name} ({n})" for name, n in files.items()))


def ways_through(repo: Path) -> dict[str, dict[str, int]]:
    """Files crossed on each way, with the number of functions that ran in each."""
    with tempfile.TemporaryDirectory(prefix="kdbench-structure-") as scratch:
        place = Path(scratch)
        package = place / "path" / "kdbench"
        package.mkdir(parents=True)
        for name in FOLDERS:
            (package / name).symlink_to(repo / name)
        env = os.environ | {
            "PYTHONPATH": str(package.parent),
            "KDBENCH_CACHE": str(place / "cache"),
            "OMP_NUM_THREADS": "1",
        }

        def run(way: str | None, *arguments: str) -> dict[str, int]:
            traced = way is not None
            out = place / f"{way}.json"
            told = "\n".join([str(package), json.dumps(WAYS.get(way or "", {})), str(out)])
            subprocess.run(
                [sys.executable, "-c", TRACED if traced else PLAIN, *arguments],
                env=env | {"STRUCTURE": told},
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=place,
            )
            return dict(json.loads(out.read_text())) if traced else {}

        runs = str(place / "runs")
        mini = ("--suite", "mini-test", "--tasks", "dolly", "--runs-dir", runs)
        run(None, "run", "--method", "sft", "--seed", "10", *mini)  # makes the teacher and the init
        found = {"step": run("step", "run", "--method", "fkd", "--seed", "10", *mini)}
        evaluated = str(place / "evaluated")
        two = ("--suite", "mini-test", "--tasks", "dolly,selfinst", "--runs-dir", evaluated)
        found["evaluation"] = run("evaluation", "eval", "--model", "teacher", *two)
        for method in ("sft", "fkd"):
            for seed in ("10", "20", "30"):
                run(None, "run", "--method", method, "--seed", seed, *mini)
        found["board"] = run("board", "leaderboard", runs)
    return found


def layers(repo: Path) -> int:
    """Layers of the import contract."""
    text = (repo / ".importlinter").read_text().partition("layers =")[2].partition("\n\n")[0]
    return len([line for line in text.splitlines() if line.strip()])


def imports(repo: Path) -> dict[str, set[str]]:
    """Which module of ours imports which, wherever in the file; not for type checkers only."""
    paths = [path for folder in FOLDERS for path in (repo / folder).rglob("*.py")]
    trees = {module_name(repo, path): ast.parse(path.read_text()) for path in paths}
    return {name: targets(tree, trees.keys()) - {name} for name, tree in trees.items()}


def module_name(repo: Path, path: Path) -> str:
    """``harness/files/store.py`` as ``kdbench.harness.files.store``."""
    parts = path.relative_to(repo).with_suffix("").parts
    return ".".join(["kdbench", *(p for p in parts if p != "__init__")])


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from nodes(node)


def targets(tree: ast.AST, names: Set[str]) -> set[str]:
    """Modules among ``names`` that a file imports; of a package, what is taken out of it."""
    found: set[str] = set()
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside
            if not inside <= names:
                found.add(node.module)
    return found & names


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that reach each other."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for target in graph[todo.pop()] - seen:
                seen.add(target)
                todo.append(target)
        reach[start] = seen
    found = {
        frozenset(n for n in reach[m] if m in reach.get(n, ())) for m in graph if m in reach[m]
    }
    return sorted(sorted(circle) for circle in found)


def code_lines(folder: Path) -> int:
    """Code lines of all Python files below a folder."""
    return sum(lines_of(path.read_text()) for path in folder.rglob("*.py"))


def lines_of(text: str) -> int:
    """Lines with a token that is neither a comment nor a docstring."""
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for part in node.body:
                value = part.value if isinstance(part, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    prose |= set(range(part.lineno, (part.end_lineno or part.lineno) + 1))
    lines: set[int] = set()
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped | {tokenize.ENDMARKER}:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - prose)


if __name__ == "__main__":
    main()
