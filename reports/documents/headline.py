"""Where methods stand, and what they cost, as parts of a document."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kdbench.harness.files.records import Missing
from kdbench.reports.agreement import Agreement
from kdbench.reports.costs import ALIKE, COSTS, SECONDS, kinds_of
from kdbench.reports.headline import Headline, Number, Place, weighed
from kdbench.reports.text import document as doc
from kdbench.reports.text.style import fixed

UNSTEADY = 1.5
"""Seconds of a method's slowest seed over its quickest's, above which a note warns of them."""
SHORT = {"response": "trained", "teacher_answers": "answers", SECONDS: "time"}


class Shown(NamedTuple):
    """How a number of a place is shown: its head, its digits, and what data frames call it."""

    head: str
    digits: int
    plain: str


NUMBERS = {
    "gap": Shown("gap closed, %", 0, "gap_closed"),
    "rank": Shown("mean rank", 1, "mean_rank"),
    "beats": Shown("beats SFT, %", 0, "beats_sft"),
}
"""By field of a place."""


def headline_parts(found: Headline) -> list[doc.Part]:
    """Ranks first, then quality against cost where runs recorded it."""
    head = ["method", "alike", *(shown.head for shown in NUMBERS.values())]
    rows: list[list[doc.Cell]] = [
        [
            place.label,
            place.alike,
            *(value(getattr(place, name), shown.digits) for name, shown in NUMBERS.items()),
        ]
        for place in found.places
    ]
    table = doc.Table(head, rows, right=(2, 3, 4))
    return [table, doc.Notes(explained(found)), *cost_parts(found)]


def explained(found: Headline) -> list[doc.Cell]:
    """What the numbers of a headline are, in plain words."""
    over = f"{len(found.columns)} columns" if len(found.columns) > 4 else ", ".join(found.columns)
    lines: list[doc.Cell] = [
        f"[95% interval], over {over}. alike: methods that share a letter cannot be told apart by their "
        "mean score"
    ]
    if found.baseline:
        lines.append(
            f"gap closed: of the way from SFT ({found.baseline}) to the teacher. beats SFT: how likely one "
            "training makes a better student than one of SFT under another seed"
        )
    lines += map(agreed, found.agreement)
    if found.left_out:
        lines.append(f"not in all of these columns: {', '.join(found.left_out)}")
    if blind := len(found.unmeasured):
        lines.append(
            f"one training seed of a method in {blind} of {len(found.columns)} columns: what training adds "
            "is not in the intervals and letters there"
        )
    if found.few:
        lines.append(
            "not counted, as less than two thirds of the methods are in it with all their students: "
            f"{', '.join(found.few)}"
        )
    return lines


def agreed(found: Agreement) -> str:
    """Whether two sides rank methods alike, in a sentence."""
    measured, tau, low, high = (
        fixed(n, 2) for n in (found.measured, found.tau, found.low, found.high)
    )
    pairs = found.same + found.reversed + found.undecided
    return (
        f"rank agreement of {found.between}: Kendall's tau {measured} as measured, over {len(found.methods)} "
        f"methods (1: the same order); of {pairs} pairs {found.same} are told apart on both sides in the "
        f"same order, {found.reversed} reversed, {found.undecided} undecided on a side; if scores are "
        f"normal over methods, tau of the true scores {tau} [{low}, {high}]"
    )


def cost_parts(found: Headline) -> list[doc.Part]:
    """Quality against the cost of training."""
    kinds = kinds_of([place.cost for place in found.places])
    if not kinds:
        return []
    name = weighed(found)
    shown = NUMBERS[name]
    rows: list[list[doc.Cell]] = [
        [
            place.label,
            value(getattr(place, name), shown.digits)[0],
            *(_cost(place, kind) for kind in kinds),
        ]
        for place in found.places
    ]
    table = doc.Table(
        ["method", shown.head, *(SHORT.get(k, k) for k in kinds)],
        rows,
        right=range(1, len(kinds) + 2),
        groups=["", "", *("tokens" if kind in COSTS else "training" for kind in kinds)],
    )
    front = (
        "cost of one training, shared models not counted; tokens: trained on, through the student, through "
        "the teacher, sampled, in answers that the teacher wrote beforehand (all methods share them); ",
        doc.Strong("marked", "*"),
    )
    equal = "costs within 1% count as equal"
    if SECONDS in kinds and found.time_ratio > ALIKE:
        equal += f", times within ×{found.time_ratio:.3g}"
    pareto = f": no method is both better and cheaper (Pareto front; {equal})"
    return [table, doc.Notes([(*front, pareto), *timed(found)])]


def timed(found: Headline) -> list[str]:
    """A warning where the time of a training is no property of its method."""
    if found.time_ratio <= UNSTEADY:
        return []
    return [
        "time as measured, on machines that may have been busy: seeds of one method differ up to "
        f"×{found.time_ratio:.3g}"
    ]


def value(found: Number | Missing, digits: int) -> tuple[doc.Piece, ...]:
    """A number with its interval, or why there is none."""
    if isinstance(found, Missing):
        return ("–", doc.Note(found.missing))
    low, high = fixed(found.low, digits), fixed(found.high, digits)
    return (fixed(found.mean, digits), doc.Small(f"[{low}, {high}]"))


def amount(number: float, kind: str) -> str:
    """Tokens in thousands and millions, time in seconds, minutes or hours."""
    steps: tuple[tuple[float, float, str], ...]
    if kind == SECONDS:
        steps = ((7200, 3600, " h"), (120, 60, " min"), (0, 1, " s"))
    else:
        steps = ((1e6, 1e6, "M"), (1e3, 1e3, "k"), (0, 1, ""))
    unit, name = next((unit, name) for least, unit, name in steps if number >= least)
    return f"{number / unit:.3g}{name}"


def _cost(place: Place, kind: str) -> doc.Cell:
    if kind not in place.cost:
        return "–"
    shown = amount(place.cost[kind], kind)
    return doc.Strong(shown, "*") if kind in place.front else shown


def headline_rows(found: Headline) -> Iterator[tuple[str, Mapping[str, object]]]:
    """A row's label, and one of its numbers as plain values; the shares of the gap by column too."""
    for place in found.places:
        for name, shown in NUMBERS.items():
            yield place.label, {"metric": shown.plain} | _plain(getattr(place, name))
        for heading, share in zip(found.columns, place.gaps, strict=True):
            yield place.label, {"metric": NUMBERS["gap"].plain, "task": heading} | _plain(share)
        for kind, number in place.cost.items():
            yield (
                place.label,
                {"metric": f"cost_{kind}", "mean": number, "bold": kind in place.front},
            )


def _plain(found: Number | Missing) -> dict[str, object]:
    if isinstance(found, Missing):
        return {"reason": found.missing}
    return found.model_dump()
