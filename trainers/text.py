"""The plain-text language-modelling loss that several papers add (MiniLLM's L_PT, DPKD's LM term)."""

from kdbench.trainers.method import Context, Stream, singles


def plain_text(ctx: Context, step: int, weight: float) -> tuple[Stream, ...]:
    """The stream ``text``, or nothing if its weight is zero or the suite has no plain text."""
    rows = ctx.text_batch(step) if weight else []
    return (singles("text", rows, weight),) if rows else ()
