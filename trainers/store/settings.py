"""What a training says about a teacher store; part of the recipe, so it is read without torch."""

NONE, HIDDEN, ROUNDED = "none", "hidden", "hidden-bf16"
PATTERN = r"^(none|hidden|hidden-bf16|top-[1-9][0-9]{0,3})$"
ABOUT = (
    "what is read from a store on disk instead of a teacher in memory, by methods that ask it about given "
    "answers only: none, hidden (exact), hidden-bf16, top-64 (the 64 likeliest tokens and one bin)"
)


def exact(kind: str) -> bool:
    """Whether this setting of ``teacher.store`` leaves the trained student as it is (to rounding)."""
    return kind in (NONE, HIDDEN)


def mark(kind: str) -> list[str]:
    """What boards say of a run that read such a store, among what it changed; nothing of an exact one."""
    return [] if exact(kind) else [f"teacher.store={kind} ({inexact(kind)})"]


def inexact(kind: str) -> str:
    """In a word, how a setting that is not exact changes what is read."""
    return "approximate" if likeliest(kind) else "rounded"


def likeliest(kind: str) -> int:
    """How many likeliest tokens of a position are kept; 0: hidden states are."""
    return int(kind.removeprefix("top-")) if kind.startswith("top-") else 0


def bytes_of(kind: str, width: int, element: int) -> int:
    """Bytes of a position.

    Args:
        kind: the setting.
        width: units of the teacher's last hidden states.
        element: bytes of one of them as the teacher gives it.
    """
    if known := likeliest(kind):
        return 4 * (2 * known + 1)
    return width * (2 if kind == ROUNDED else element)
