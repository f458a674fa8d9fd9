"""Whether a model can read sequences as long as the run's."""

from collections.abc import Iterator

from kdbench.harness.preflight.finding import Finding
from kdbench.harness.preflight.subject import Subject
from kdbench.trainers.sampler.sampler import context_length


def check(subject: Subject) -> Iterator[Finding]:
    """The model's positions against the longest sequence it may be given."""
    positions = context_length(subject.config)
    if positions is None:
        yield Finding("positions", "no limit named")
    elif positions >= subject.tokens:
        yield Finding("positions", f"{positions} for sequences of up to {subject.tokens} tokens")
    else:
        yield Finding(
            "positions",
            f"{subject.name} has {positions} positions, but sequences may have {subject.tokens} tokens "
            f"(train.max_length); lower it with --set train.max_length={positions}, or choose a model "
            "with a longer context",
            "fail",
        )
