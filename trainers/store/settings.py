"""What a training says about a teacher store; part of the recipe, so it is read without torch."""

NONE, HIDDEN, ROUNDED = "none", "hidden", "hidden-bf16"
PATTERN = r"^(none|hidden|hidden-bf16)$"
ABOUT = (
    "what is read from a store on disk instead of a teacher in memory, by methods that ask it about given "
    "answers only: none, hidden (exact), hidden-bf16"
)


def exact(kind: str) -> bool:
    """Whether this setting of ``teacher_store`` leaves the trained student as it is (to rounding)."""
    return kind in (NONE, HIDDEN)


def bytes_of(kind: str, width: int, element: int) -> int:
    """Bytes of a position.

    Args:
        kind: the setting.
        width: units of the teacher's last hidden states.
        element: bytes of one of them as the teacher gives it.
    """
    return width * (2 if kind == ROUNDED else element)
