"""Text of the mini world as words and marks, and back."""

import re

MARKS = (".", ",", "?", ":", "'s")
SPLIT = r"<\w+>|'s|\w+|[^\w\s]"


def split(text: str) -> list[str]:
    """The words and marks of a text, as the tokenizer parts them."""
    return re.findall(SPLIT, text)


def spaced(text: str) -> str:
    """The canonical form of a text: words and marks parted by single spaces."""
    return " ".join(split(text))


def join(words: list[str] | tuple[str, ...]) -> str:
    """Words as text, marks attached to the word before them."""
    text = " ".join(words)
    for mark in MARKS:
        text = text.replace(f" {mark}", mark)
    return text
