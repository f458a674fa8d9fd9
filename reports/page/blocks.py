"""Answers within the page, packed: a block a task, which the page unpacks when somebody looks at it.

Blocks are gzip in base64, so no text of a model can lead out of the element that holds it; the page's
script reads them with the browser's own `DecompressionStream`, without a request. Their bytes depend
on the build of zlib, as those of any compressed file do.
"""

import base64
import gzip
from collections.abc import Sequence
from typing import NamedTuple

from kdbench.reports.page.samples import Answers
from kdbench.reports.text.html import json_text


class Packed(NamedTuple):
    """One task's answers as they lie in the page."""

    answers: Answers
    held: int
    """Prompts that are in it."""
    text: str
    """Base64; empty: there was room for none."""


def fitting(found: Sequence[Answers], room: int) -> list[Packed]:
    """As many prompts of each task as there is room for, the same share of all.

    Args:
        found: the tasks.
        room: bytes of all blocks together.
    """
    share = 1.0
    while share > 1e-4 and room > 0:
        packed = [_packed(each, share) for each in found]
        size = sum(len(each.text) for each in packed)
        if size <= room:
            return packed
        share *= min(0.95, 0.97 * room / size)
    return [Packed(each, 0, "") for each in found]


def _packed(found: Answers, share: float) -> Packed:
    count = int(share * len(found.prompts))
    if not count:
        return Packed(found, 0, "")
    data = gzip.compress(json_text(found.first(count)).encode(), compresslevel=9, mtime=0)
    return Packed(found, count, base64.b64encode(data).decode())
