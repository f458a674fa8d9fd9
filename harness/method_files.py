"""Methods that others wrote in a file: read, looked at, and blamed by line for what goes wrong in them."""

import contextlib
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kdbench.harness.errors import CellFailed, InputError, KdbenchError
from kdbench.harness.files.store import reading
from kdbench.harness.foreign import reason

if TYPE_CHECKING:
    from kdbench.trainers.method import Method

MODULE = "kdbench_method_"
"""What the module of a method file is called, the file's name and hash behind it."""
LARGEST = 1 << 20
"""Bytes of a method file."""
CALLED = {
    "window": ("ctx", "step"),
    "loss": ("ctx", "stream", "micro"),
    "on_evaluation": ("ctx", "metrics"),
    "after_step": ("ctx", "step", "terms"),
    "parameters": ("student_width", "teacher_width"),
    "reads": (),
    "state_dict": (),
    "load_state_dict": ("state",),
}
"""What the loop calls, and with what."""


def read_source(path: Path) -> bytes:
    """A method file as it is."""
    with reading(path, "give the path of a method file"):
        source = path.read_bytes()
    if len(source) > LARGEST:
        raise InputError(f"{path} has {len(source):,} bytes, so it is no method file")
    return source


def load(path: Path, source: bytes, module_name: str) -> "type[Method]":
    """Runs a method file and returns its method.

    Raises:
        InputError: it cannot be run, defines no method or several, or one that the loop cannot use; the
            sentence names the file and the line.
    """
    module = ModuleType(module_name)
    module.__file__ = str(path)
    sys.modules[module_name] = module  # dataclasses look the module up by name
    try:
        with blaming(path, " to load"):
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
        return _only_method(path, module)
    except BaseException:
        sys.modules.pop(module_name, None)
        raise


def _only_method(path: Path, module: ModuleType) -> "type[Method]":
    from kdbench.trainers.method import Method

    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
        and "card" in dir(value)
    ]
    if len(set(classes)) != 1:
        names = ", ".join(sorted(c.__name__ for c in set(classes))) or "none"
        raise InputError(
            f"{path} must define exactly one subclass of kdbench.trainers.method.Method "
            f"(found: {names})"
        )
    check_interface(path, classes[0])
    return classes[0]


def check_interface(path: Path, method: "type[Method]") -> None:
    """Refuses a class whose functions cannot be called as the loop calls them."""
    from kdbench.trainers.method import MethodConfig

    if not (isinstance(method.Config, type) and issubclass(method.Config, MethodConfig)):
        raise InputError(f"{path}: Config of {method.__name__} must be a subclass of MethodConfig")
    names = method.remembers
    if not isinstance(names, tuple | list) or not all(isinstance(n, str) for n in names):
        raise InputError(f"{path}: remembers of {method.__name__} must be a tuple of names")
    for name, arguments in CALLED.items():
        _check_call(path, method, name, arguments)
    _check_call(path, method, "__init__", ("config",))


def _check_call(path: Path, method: type, name: str, arguments: tuple[str, ...]) -> None:
    found = inspect.getattr_static(method, name)
    wanted = f"{name}({', '.join(('self', *arguments))})"
    if not inspect.isfunction(found) or inspect.iscoroutinefunction(found):
        raise InputError(f"{path}: {method.__name__}.{name} must be a plain function {wanted}")
    try:
        inspect.signature(found).bind(None, *arguments)
    except TypeError as error:
        line = found.__code__.co_firstlineno
        raise InputError(
            f"{path}, line {line}: {name} of {method.__name__} cannot be called as {wanted} ({error})"
        ) from error


@contextlib.contextmanager
def blaming(path: Path, when: str = "") -> Iterator[None]:
    """Turns what a method file's code raises into one sentence with the line; see `blamed`.

    Args:
        path: the file.
        when: said of errors that no line of it raised; empty: those are not its fault and pass.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        line = line_of(error, path)
        if (line is None or isinstance(error, KdbenchError)) and not when:
            raise
        if isinstance(error, CellFailed):
            raise InputError(
                f"method file {path} fails{when} (its loss or gradient is not finite); repair it"
            ) from error
        if isinstance(error, KdbenchError):
            raise InputError(f"method file {path} fails{when} ({error})") from error
        place = f", line {line}," if line is not None else ""
        raise InputError(
            f"method file {path}{place} fails{when} ({_said(error)}); repair it"
        ) from error


@contextlib.contextmanager
def blaming_method(method: "Method") -> Iterator[None]:
    """`blaming` for the file that a method was loaded from; nothing of the sort for an installed one."""
    module = sys.modules.get(type(method).__module__)
    path = getattr(module, "__file__", None)
    if path is None or not type(method).__module__.startswith(MODULE):
        yield
        return
    with blaming(Path(path)):
        yield


def line_of(error: BaseException, path: Path) -> int | None:
    """The last line of a file that an error went through."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return lines[-1] if lines else None


def _said(error: BaseException) -> str:
    """The error in words, its kind first, as its author knows it from Python."""
    kind = type(error).__name__
    try:
        said = error.msg if isinstance(error, SyntaxError) else reason(error)
    except Exception:  # the text of an exception is code of others too
        return kind
    return said if said.startswith(kind) else f"{kind}: {said}"


def rehearse(path: Path, method: "type[Method]", options: dict[str, Any]) -> None:
    """Tries a method on a tiny random pair.

    Raises:
        InputError: it fails there; the sentence names the line.
    """
    from kdbench.trainers.method import Method
    from kdbench.trainers.rehearsal import rehearse as run

    if method.loss is Method.loss:
        raise InputError(f"{path}: {method.__name__} defines no loss(self, ctx, stream, micro)")
    with blaming(path, " in a rehearsal on a tiny random pair"):
        run(lambda: method(method.Config.model_validate(options)))
