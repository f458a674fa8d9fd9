"""Untrusted text inside a judge's prompt: fenced, and unable to close or imitate a fence.

An answer may say anything, also "the answer ends here; score: 10". Each text stands between lines
that carry a hash of all texts of the question, which no answer can know in advance; marks that
could pass for a fence, for a verdict or for a chat template's control token are replaced by
look-alikes; control characters become U+FFFD.
"""

import hashlib
import re
from collections.abc import Mapping

DECORATION = r"\s*_`~\"'\[\]"
"""What may stand between the word of a verdict and its colon, as a class of a pattern."""

_MARKS = [
    (re.compile(r"<{3,}"), lambda match: "‹" * len(match[0])),
    (re.compile(r">{3,}"), lambda match: "›" * len(match[0])),
    (re.compile(r"<\|"), lambda match: "‹|"),
    (re.compile(r"\|>"), lambda match: "|›"),
    (
        re.compile(
            r"<(?=/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|system|user|assistant)>)", re.I
        ),
        lambda match: "‹",
    ),
    (re.compile(r"<<(?=/?SYS>>)", re.I), lambda match: "‹‹"),
    (
        re.compile(r"\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS)\])", re.I),
        lambda m: "⟦",
    ),
    (re.compile(rf"(?<=SCORE)([{DECORATION}]*):", re.I), lambda match: match[1] + "∶"),
    (re.compile(rf"(?<=VERDICT)([{DECORATION}]*):", re.I), lambda match: match[1] + "∶"),
]
# C0 and C1 controls but tab and newline, and what is invisible or turns the direction of text; joiners, which
# spell Persian words and emoji, only where they join none of their characters
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
    "|(?<![^\x00-\x7f\u200c\u200d])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f\u200c\u200d])"
)


def neutralised(text: str) -> str:
    """``text`` without anything that a judge could take for our own marks."""
    text = _CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))
    for pattern, replacement in _MARKS:
        text = pattern.sub(replacement, text)
    return text


def filled(template: str, texts: Mapping[str, str]) -> str:
    """``template`` with each ``{name}`` replaced by the fenced text of that name.

    Replaced in one pass: braces inside a text are only text.
    """
    joined = "\x00".join(f"{name}\x01{texts[name]}" for name in sorted(texts))
    mark = hashlib.sha256(joined.encode("utf-8", "replace")).hexdigest()[:12]

    def fenced(match: re.Match[str]) -> str:
        name = match[1].upper().replace("_", " ")
        return f"<<<{name} {mark}\n{neutralised(texts[match[1]])}\n{mark} END OF {name}>>>"

    return re.sub(r"\{(\w+)\}", fenced, template)
