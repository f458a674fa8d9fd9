"""Architectures of transformers: each works or is refused in a sentence, and the table says which."""

import random

import arch_trials
import architectures
import pytest

# a model whose head cannot be taken apart says so; here it is only tried
pytestmark = pytest.mark.filterwarnings("ignore:the logits of")

SLICE = random.Random(11).sample(sorted(architectures.SETTINGS), 2)


def fits(name: str) -> None:
    assert arch_trials.trial(name).line() == arch_trials.documented()[name], (
        "docs/architectures.md is stale; python tests/support/arch_trials.py"
    )


@pytest.mark.parametrize("name", SLICE)
def test_slice_is_as_documented(name: str) -> None:
    fits(name)


@pytest.mark.long
@pytest.mark.parametrize("name", architectures.SETTINGS)
def test_all_are_as_documented(name: str) -> None:
    fits(name)


def test_table_has_all() -> None:
    assert list(arch_trials.documented()) == list(architectures.SETTINGS)
