"""What an optimiser step of each method does, in numbers: whose sequences, whose passes, which copies.

Of our own methods only; what a method of others does is guessed from its card. `tests/test_plan.py` compares
the table with the cards.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbench.trainers.method import Card

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Of one sequence of the batch, on average over a training.

    Attributes:
        trained: responses that are trained on; of a pair two.
        group: sequences that share a micro-batch.
        teacher: teacher passes over each of them.
        given: whether all that the teacher is asked about is known before training, so that a store can
            stand for it (`kdbench.trainers.method.Method.reads`).
        text: whether a row of plain text is trained on as well.
        text_teacher: whether the teacher reads that, too.
        sampled: answers that the student samples.
        ahead: steps whose prompts it is asked together; ``rollouts``: as many prompts, if that is more.
        mixed: whether the teacher decodes together with it.
        scored, scored_teacher: sequences read without gradient.
        taught: whether the teacher answers each prompt once.
        loaded: whether a teacher is in memory.
        copies: frozen copies of the student in memory.
        buffers: float32 (rows, vocabulary) tensors of a tile at once; see `memory.head_tiles`.
        kept_logits: float32 (targets, vocabulary) tensors kept for backward, outside tiles.
        extra: parameters of the method's own modules, of the widths of student and teacher.
    """

    trained: float = 1.0
    group: int = 1
    teacher: float = 0.0
    given: bool = False
    text: bool = False
    text_teacher: bool = False
    sampled: float = 0.0
    ahead: int = 1
    rollouts: int = 0
    mixed: bool = False
    scored: float = 0.0
    scored_teacher: float = 0.0
    taught: bool = False
    loaded: bool = True
    copies: int = 0
    buffers: int = 0
    kept_logits: int = 0
    extra: Callable[[int, int], int] = lambda student, teacher: 0


SFT = Work(loaded=False)
KD = Work(teacher=1.0, given=True, buffers=9)
ONLINE = replace(KD, given=False)


def _responses(work: Work) -> Callable[[Options], Work]:
    return lambda o: replace(work, taught=o.get("responses", "data") != "data")


def _ppo(o: Options) -> Work:
    ppo = o.get("ppo") or {}
    fresh = 1 / ppo.get("inner_epochs", 4)
    return replace(
        ONLINE,
        buffers=8,
        text=bool(o.get("lm_coef", 1.0)),
        sampled=fresh,
        rollouts=ppo.get("rollouts", 256),
        mixed=bool(o.get("teacher_mix", 0.2)),
        scored=fresh,
        scored_teacher=fresh,
        teacher=fresh,  # remembered over the inner epochs
    )


def _ppo_code(o: Options) -> Work:
    work = _ppo(o)
    return replace(work, text_teacher=work.text)


def _dpkd(o: Options) -> Work:
    return Work(
        trained=2.0,
        group=2,
        teacher=1.0,
        text=bool(o.get("lm_coef", 1.0)),
        sampled=1.0 if o.get("refresh", 1) else 0.0,
        ahead=int(o.get("refresh", 1)),
        taught=o.get("chosen", "sample") != "gold",
        buffers=3,
    )


def _on_policy(share: str, default: float) -> Callable[[Options], Work]:
    def work(o: Options) -> Work:
        others = o.get("others", "data") != "data"
        return replace(ONLINE, sampled=float(o.get(share, default)), taught=others)

    return work


def _distillm(o: Options) -> Work:
    # the threshold rises as the development loss does: half of all batches is as good a guess as any
    fresh = max(float(o.get("threshold", 0.0)), 0.5) / 2
    return replace(ONLINE, buffers=11, text=bool(o.get("lm_coef", 1.0)), sampled=fresh)


def _distillm2(o: Options) -> Work:
    work = replace(ONLINE, buffers=11, trained=2.0, taught=True, scored=2.0, scored_teacher=2.0)
    return replace(work, sampled=1.0, ahead=int(o.get("refresh", 50)))


def _mrkd(o: Options) -> Work:
    copies = int(o.get("copies", 2))
    return replace(SFT, copies=copies, scored=1.0, buffers=9)


def _cr_ild(student: int, teacher: int) -> int:
    return student * teacher


def _dskd(student: int, teacher: int) -> int:
    between = 2 * student * teacher + student + teacher
    return between + 4 * student * teacher + 2 * teacher


WORKS: dict[str, Callable[[Options], Work]] = {
    "sft": lambda o: SFT,
    "fkd": _responses(replace(KD, buffers=0)),
    "seqkd": lambda o: Work(
        teacher=1.0 if o.get("word_kd", 0.0) else 0.0,
        given=bool(o.get("word_kd", 0.0)),
        taught=True,
    ),
    "minillm": _ppo,
    "minillm-code": _ppo_code,
    "dpkd": _dpkd,
    "dpkd-token": lambda o: replace(
        KD, text=bool(o.get("lm_coef", 0.5)), taught=o.get("responses", "teacher") != "data"
    ),
    "rkd": _responses(KD),
    "jsd": _responses(replace(KD, buffers=13)),
    "tvd": _responses(replace(KD, buffers=6)),
    "sym-kl": _responses(replace(KD, buffers=10)),
    "akl": _responses(replace(KD, buffers=14)),
    "taid": _responses(KD),
    "imitkd": lambda o: replace(_on_policy("student_share", 1.0)(o), buffers=0),
    "gkd": lambda o: replace(_on_policy("student_share", 0.5)(o), buffers=13),
    "opd": lambda o: replace(ONLINE, sampled=1.0),
    "distillm": _distillm,
    "distillm2": _distillm2,
    "plad": lambda o: Work(trained=2.0, group=2, taught=True, buffers=3),
    "rlkd": _responses(KD),
    "sinkd": lambda o: replace(KD, group=int(o.get("group", 4)), buffers=0),
    "cr-ild": lambda o: replace(KD, trained=1.5, group=2, buffers=0, extra=_cr_ild),
    "lsrkd": _responses(replace(SFT, buffers=9)),
    "mrkd": _mrkd,
    "uld": lambda o: replace(KD, buffers=3),
    "dskd": lambda o: replace(KD, buffers=0, kept_logits=8, extra=_dskd),
}


def work_of(name: str, options: Options, card: "Card | None" = None) -> Work:
    """What a step of a method does.

    Args:
        name: of the method.
        options: its own settings; what is left out has its default.
        card: of a method of others.
    """
    if name in WORKS:
        return WORKS[name](options)
    if card is None:
        return KD
    return Work(
        teacher=float(card.teacher_logits),
        given=card.teacher_logits and card.policy == "off" and not card.student_samples,
        text=card.plain_text,
        sampled=float(card.student_samples),
        taught=card.teacher_samples,
        loaded=card.teacher_logits or card.teacher_samples,
        buffers=12,
    )
