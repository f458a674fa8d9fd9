"""Statistics against closed forms, against slow obvious versions, and on simulated runs."""

import itertools
import math

import numpy as np
import pytest
from runs import benchmark

from kdbench.harness import stats
from kdbench.harness.evaluation.scoring import evaluation_scores
from kdbench.harness.files.records import Estimate, Missing, ScoreRow
from kdbench.reports.paired import Sample, paired_tests


def normal(label: str, *shape: int) -> np.ndarray:
    return stats.generator(label).standard_normal(shape)


def test_bootstrap_of_a_mean_has_the_closed_form_width() -> None:
    values = 3 + 2 * normal("a", 400)
    low, high = stats.bootstrap(values)[1:]
    error = values.std(ddof=1) / 20
    half = stats.t_quantile(0.975, 399) * error
    assert low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_bootstrap_standard_deviation_is_the_plug_in_error() -> None:
    values = normal("b", 50) ** 2
    means = stats.resampled_means(values)
    assert means.std() == pytest.approx(values.std() / math.sqrt(50), rel=0.03)


def test_bootstrap_is_the_same_every_time_and_per_column() -> None:
    values = normal("c", 30, 3)
    together = stats.bootstrap_columns(values)
    for column in range(3):
        alone = stats.bootstrap(values[:, column])
        assert alone == stats.bootstrap(values[:, column])
        assert [bound[column] for bound in together] == pytest.approx(list(alone), abs=1e-12)


def test_bootstrap_of_equal_values_and_of_one_prompt_is_a_point() -> None:
    assert stats.bootstrap([2.0] * 9) == (2.0, 2.0, 2.0)
    assert stats.bootstrap([7.0]) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize("bad", [[], [math.nan, 1.0], [math.inf, 0.0]])
def test_no_silent_number_from_bad_input(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        stats.bootstrap(bad)


def test_expanded_tail_goes_to_the_nominal_one() -> None:
    assert stats.expanded_tail(10**6) == pytest.approx(0.025, abs=1e-6)
    assert stats.expanded_tail(5) < 0.01


def test_ratio_of_sums_draws_prompts_together() -> None:
    below = np.array([1.0, 3.0, 2.0, 6.0])
    assert stats.bootstrap_ratio(2 * below, below) == (2, 2, 2)
    ratio, low, high = stats.bootstrap_ratio([1.0, 5.0, 2.0, 4.0], below)
    assert low < ratio == 1 < high
    assert stats.bootstrap_ratio([3.0], [2.0]) == (1.5, 1.5, 1.5)


def test_nested_bootstrap_variance_is_the_sum_of_both_sources() -> None:
    values = 3 * normal("e", 8, 1) + normal("f", 1, 60) + 0.1 * normal("g", 8, 60)
    low, high = benchmark("coverage").nested_bootstrap(values)[1:]
    variance = values.mean(axis=1).var() / 8 + values.mean(axis=0).var() / 60
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(variance), rel=0.05)


def test_seed_interval_is_t_over_seed_means_when_prompts_are_certain() -> None:
    means = [10.0, 11.0, 15.0]
    result = stats.seed_interval(means, means, means)
    half = 4.302652729911275 * np.std(means, ddof=1) / math.sqrt(3)
    assert result == pytest.approx((12.0, 12.0 - half, 12.0 + half))


def test_seed_interval_of_one_or_two_seeds_is_about_prompts_only() -> None:
    assert stats.seed_interval([5.0], [4.0], [7.0]) == (5.0, 4.0, 7.0)
    assert stats.seed_interval([5.0, 7.0], [4.0, 6.0], [7.0, 9.0]) == (6.0, 5.0, 8.0)


def test_randomisation_enumerates_small_samples() -> None:
    differences = np.array([3.0, -1.0, 2.0, 0.5, 1.0])
    sums = [abs(np.dot(s, differences)) for s in itertools.product([1, -1], repeat=5)]
    exact = np.mean(np.array(sums) >= abs(differences.sum()) - 1e-9)
    assert stats.randomisation_p(differences) == exact


def test_randomisation_agrees_with_the_t_test_on_normal_data() -> None:
    differences = 0.3 + normal("h", 80)
    statistic = differences.mean() / (differences.std(ddof=1) / math.sqrt(80))
    expected = float(stats.t_two_sided(statistic, 79))
    assert stats.randomisation_p(differences) == pytest.approx(expected, abs=0.01)


def test_randomisation_of_no_difference_is_one() -> None:
    assert stats.randomisation_p(np.zeros(30)) == 1.0


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert stats.holm([]).size == 0
    assert stats.holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])


def test_minimum_detectable_effect_is_found_with_its_power() -> None:
    effect = stats.minimum_detectable_effect(1.0)
    assert effect == pytest.approx(2.8015852, abs=1e-6)
    assert np.mean(np.abs(effect + normal("i", 20_000)) > 1.959964) == pytest.approx(0.8, abs=0.01)


def test_comparison_without_seed_spread_is_the_paired_t_test() -> None:
    a, b = normal("j", 1, 40), normal("k", 1, 40)
    result = stats.compare_rows(a, b, seeds_measured=True)
    difference = (a - b)[0]
    error = difference.std(ddof=1) / math.sqrt(40)
    assert result.p == pytest.approx(float(stats.t_two_sided(difference.mean() / error, 39)))
    assert result.high - result.low == pytest.approx(2 * stats.t_quantile(0.975, 39) * error)


def test_comparison_of_many_prompts_is_welch_over_seed_means() -> None:
    a = 50 + np.array([[0.0], [1.0], [2.0]]) + np.zeros((1, 500))
    b = 50 + np.array([[3.0], [5.0], [7.0]]) + np.zeros((1, 500))
    result = stats.compare_rows(a, b, seeds_measured=True)
    error = math.sqrt(1 / 3 + 4 / 3)
    df = (1 / 3 + 4 / 3) ** 2 / ((1 / 3) ** 2 / 2 + (4 / 3) ** 2 / 2)
    assert (result.difference, result.standard_error) == pytest.approx((-4.0, error))
    assert result.df == pytest.approx(df)


def test_pairs_of_a_column_equal_the_comparison_of_two_rows() -> None:
    ids = tuple(map(str, range(30)))
    samples = [Sample(ids, 10 * normal(f"row{i}", 3, 30) + i, True) for i in range(4)]
    samples.append(Sample(ids, 10 * normal("row4", 1, 30), False))
    for pair in paired_tests(samples):
        a, b = samples[pair.a], samples[pair.b]
        measured = a.measured and b.measured
        assert pair.seeds_measured == measured
        expected = stats.compare_rows(a.values_SP, b.values_SP, seeds_measured=measured)
        assert (pair.difference, pair.p) == pytest.approx(
            (expected.difference, expected.p), abs=1e-6
        )


def test_pairs_match_prompts_by_id_and_ignore_the_others() -> None:
    values = normal("l", 1, 20)
    a = Sample(tuple("abcdefghijklmnopqrst"), values, False)
    b = Sample(tuple("tsrqponmlkjihgfedcba"), values[:, ::-1], False)
    c = Sample(tuple("ABCDEFGHIJKLMNOPQRST"), values, False)
    d = Sample(tuple("abcdeVWXYZ"), values[:, :10] + 1, False)
    found = {(pair.a, pair.b): pair for pair in paired_tests([a, b, c, d])}
    assert set(found) == {(0, 1), (0, 3), (1, 3)}
    assert (found[0, 1].difference, found[0, 1].p) == (0.0, 1.0)
    assert (found[0, 3].n_prompts, found[0, 3].difference) == (5, -1.0)
    assert found[0, 3].p == 2 / 32


def test_values_are_aligned_by_prompt_for_every_seed() -> None:
    sample = Sample(("a", "b", "c"), np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), False)
    assert sample.at(["c", "a"]).tolist() == [[3.0, 1.0], [6.0, 4.0]]


@pytest.mark.parametrize("seeds", [1, 3, 5, 10])
def test_coverage_of_some_cells(seeds: int) -> None:
    coverage = benchmark("coverage")
    world = coverage.World(1.0, 15.0, 5.0)
    cell = coverage.measure(world, seeds, 60, simulations=600, resamples=400)
    assert cell.coverage >= coverage.FLOOR


def score_row(doc: int, rouge: list[float], **more: list[float]) -> ScoreRow:
    return ScoreRow(
        doc_id=doc,
        prompt_hash=f"{doc:016x}",
        reference_tokens=3,
        seeds=[10, 20],
        metrics={"rouge_l": rouge, **more},
    )


def summarise(rows: list[ScoreRow]) -> dict[str, Estimate | Missing]:
    return evaluation_scores(rows)


def test_summary_averages_decoding_seeds_first() -> None:
    rows = [score_row(0, [10.0, 20.0]), score_row(1, [30.0, 60.0]), score_row(2, [0.0, 0.0])]
    value = summarise(rows)["rouge_l"]
    assert isinstance(value, Estimate)
    assert (value.mean, value.n_prompts, value.seeds) == (20.0, 3, [10, 20])
    assert value.per_seed == pytest.approx([40 / 3, 80 / 3])
    assert value.low <= 20.0 <= value.high
    assert summarise(rows[::-1])["rouge_l"] == value


def test_summary_gives_reasons_instead_of_numbers() -> None:
    rows = [score_row(0, [1.0, 2.0], acc=[1.0, 1.0]), score_row(1, [3.0, 4.0])]
    assert summarise(rows)["acc"] == Missing(missing="not scored for 1 of 2 prompts")
    assert summarise([score_row(0, [math.nan, 1.0])])["rouge_l"] == Missing(
        missing="not a number for 1 of 1 prompts"
    )
    assert "decoding seeds" in str(summarise([score_row(0, [1.0])])["rouge_l"])
    assert summarise([])["rouge_l"] == Missing(missing="no prompt was scored")
