"""Statistics against closed forms, against slow obvious versions, and on simulated runs."""

import itertools
import math

import numpy as np
import pytest
from pydantic import ValidationError
from runs import benchmark

from kdbench.harness import comparisons, stats
from kdbench.harness.evaluation.estimates import evaluation_scores
from kdbench.harness.files.records import Estimate, Missing, ScoreRow
from kdbench.harness.seed_variance import (
    ENOUGH,
    SeedVariance,
    homogeneity_p,
    loud,
    moderated,
    seed_variance,
    without_shared,
)
from kdbench.reports.paired import Sample


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
    result = stats.seed_interval(means, means, means, float(np.var(means, ddof=1)), 2)
    half = 4.302652729911275 * np.std(means, ddof=1) / math.sqrt(3)
    assert result == pytest.approx((12.0, 12.0 - half, 12.0 + half))


def test_seed_interval_without_a_variance_is_about_prompts_only() -> None:
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


def known(*rows: np.ndarray, trained: bool = True) -> SeedVariance:
    return seed_variance([row.mean(axis=1) for row in rows], [trained] * len(rows))


def test_comparison_without_seed_spread_is_the_paired_t_test() -> None:
    a, b = normal("j", 1, 40), normal("k", 1, 40)
    result = comparisons.compare_rows(a, b, known(a, b, trained=False))
    difference = (a - b)[0]
    error = difference.std(ddof=1) / math.sqrt(40)
    assert result.p == pytest.approx(float(stats.t_two_sided(difference.mean() / error, 39)))
    assert result.high - result.low == pytest.approx(2 * stats.t_quantile(0.975, 39) * error)


def test_comparison_of_many_prompts_is_a_t_test_over_seed_means() -> None:
    a = 50 + np.array([[0.0], [1.0], [2.0]]) + np.zeros((1, 500))
    b = 50 + np.array([[3.0], [4.5], [6.0]]) + np.zeros((1, 500))
    pooled = known(a, b)
    result = comparisons.compare_rows(a, b, pooled)
    assert pooled.pooled and pooled.spread == pytest.approx(math.sqrt(1.625))
    assert (result.difference, result.standard_error) == pytest.approx((-3.5, math.sqrt(3.25 / 3)))
    assert result.df == 4
    own = pooled._replace(variance_M=np.array([1.0, 2.25]), df_M=np.array([2.0, 2.0]), pooled=False)
    welch = comparisons.compare_rows(a, b, own)
    assert welch.df == pytest.approx((1 / 3 + 3 / 4) ** 2 / ((1 / 3) ** 2 / 2 + (3 / 4) ** 2 / 2))


def test_one_student_a_row_is_compared_over_prompts_only() -> None:
    a, b = normal("l", 1, 8), normal("m", 1, 8)
    result = comparisons.compare_rows(a, b, known(a, b))
    assert not result.seeds_measured
    assert result.p == stats.randomisation_p((a - b)[0])


def test_variances_are_pooled_where_they_are_alike() -> None:
    alike = [normal(f"alike{i}", 5) for i in range(10)]
    found = seed_variance(alike, [True] * 10)
    assert found.pooled and found.rows == 10 and set(found.df_M) == {40.0}
    assert found.spread == pytest.approx(math.sqrt(np.mean([np.var(a, ddof=1) for a in alike])))
    apart = seed_variance([*alike[:9], 8 * alike[9]], [True] * 10)
    assert not apart.pooled and apart.spread is None
    own = np.array([np.var(row, ddof=1) for row in [*alike[:9], 8 * alike[9]]])
    assert apart.variance_M[9] == pytest.approx(own[9])  # the noisy one keeps what it has
    assert apart.variance_M == pytest.approx(own)
    assert (apart.df_M == 4).all()  # enough of their own
    few = seed_variance([row[:3] for row in [*alike[:9], 8 * alike[9]]], [True] * 10)
    assert (few.df_M > 2).all() and (few.df_M <= ENOUGH).all()


def test_the_prior_of_variances_is_that_of_the_source() -> None:
    # 40,000 rows whose true variances are 3 times an inverse chi-square of 5 over its degrees of freedom
    rng = np.random.default_rng(0)
    true = 3 * 5 / rng.chisquare(5, 40_000)
    own = true * rng.chisquare(1, 40_000)
    found, df = moderated(own, np.ones(40_000))
    assert df[0] == ENOUGH  # 1 and 5, cut
    quiet, noisy = own.argmin(), own.argmax()
    assert found[quiet] == pytest.approx((3 * 3 + own[quiet]) / 4, rel=0.1)
    assert found[noisy] == own[noisy]
    few, df = moderated(np.array([1.0, 9.0, 0.0]), np.array([1.0, 1.0, 0.0]))
    assert few.tolist() == [1.0, 9.0, 0.0] and df.tolist() == [1.0, 1.0, 0.0]


def test_a_row_of_one_seed_borrows_and_an_untrained_one_has_none() -> None:
    found = seed_variance([normal("a", 3), normal("b", 3), [1.0], [2.0]], [True, True, True, False])
    assert found.pooled and found.variance_M[2] == found.variance_M[0] and found.variance_M[3] == 0
    alone = seed_variance([[1.0], [2.0]], [True, False])
    assert not alone.pooled and alone.measured_M.tolist() == [False, True]


def test_variance_of_a_metric_that_some_methods_never_hit_is_not_pooled() -> None:
    assert seed_variance([[0.0] * 5, [0.0] * 5], [True] * 2).pooled
    assert homogeneity_p(np.array([0.0, 1.0, 1.0]), np.array([4.0, 4.0, 4.0])) == 0


def world(
    label: str, effects: list[float], seeds: int = 5, prompts: int = 200
) -> comparisons.Errors:
    shape = (len(effects), seeds, prompts)
    values = np.array(effects)[:, None, None] + normal(f"{label}a", *shape[:2], 1)
    values = values + 10 * normal(f"{label}b", 1, 1, prompts) + 5 * normal(f"{label}c", *shape)
    return comparisons.errors(list(values), known(*values))


def test_the_best_are_kept_and_the_clearly_worse_are_not() -> None:
    found = comparisons.column(world("best", [50.0, 50.0, 40.0, 30.0]), "x")
    p = comparisons.best_p(found, 1)
    assert (p[:2] > 0.05).all() and (p[2:] < 0.01).all()
    worst = comparisons.best_p(found, -1)
    assert worst[3] == 1 and (worst[:3] < 0.01).all()
    assert comparisons.best_p(found.of([2]), 1).tolist() == [1.0]


def test_a_family_of_pairs_is_no_more_lenient_than_its_largest_difference() -> None:
    found = comparisons.column(world("family", [50.0, 50.0, 49.0, 40.0]), "x")
    first, second = np.triu_indices(4, k=1)
    p = comparisons.family_p(found, first, second)
    alone = [comparisons.family_p(found, first[[i]], second[[i]])[0] for i in range(6)]
    assert (p >= np.array(alone)).all() and p[2] < 0.01 < p[0]


def test_draws_are_as_wide_as_the_standard_errors() -> None:
    found = comparisons.column(world("draws", [50.0] * 6), "x")
    first, second = np.triu_indices(6, k=1)
    spread = (found.deviations_RM[:, first] - found.deviations_RM[:, second]).std(axis=0)
    assert spread == pytest.approx(found.error_MM[first, second], rel=0.15)


def test_rows_with_equal_answers_are_alike() -> None:
    values = [np.tile(normal("same", 1, 30), (3, 1))] * 3
    found = comparisons.column(comparisons.errors(values, known(*values)), "x")
    assert comparisons.best_p(found, 1).tolist() == [1.0] * 3


def test_values_are_aligned_by_prompt_for_every_seed() -> None:
    sample = Sample(("a", "b", "c"), np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    assert sample.at(["c", "a"]).tolist() == [[3.0, 1.0], [6.0, 4.0]]


@pytest.mark.parametrize("seeds", [1, 3, 5, 10])
def test_coverage_of_some_cells(seeds: int) -> None:
    coverage = benchmark("coverage")
    world = coverage.World(1.0, 15.0, 5.0)
    cell = coverage.measure(world, seeds, 60, simulations=600, resamples=400)
    assert cell.coverage >= coverage.FLOOR


@pytest.mark.parametrize(
    "cell",
    [
        (4, 2, 100, "equal", "all tied"),
        (4, 5, 100, "equal", "all tied"),
        (12, 5, 100, "equal, and answers", "all tied"),
    ],
)
def test_what_boards_claim_about_a_column_in_some_cells(
    cell: tuple[int, int, int, str, str],
) -> None:
    floor, ceiling = (getattr(benchmark("column_page"), name) for name in ("FLOOR", "CEILING"))
    found = benchmark("column_coverage").measure(cell, 80)
    assert found.row >= floor and found.pair >= floor - 0.03
    assert max(found.best, found.sft, found.pairs) <= ceiling + 0.05


def test_what_a_seed_does_to_all_answers_to_a_prompt_is_no_rows_own_noise() -> None:
    """Of it a method's own variance between seeds has nothing, so nothing is taken off."""
    rng = np.random.default_rng(2)
    common, own = rng.normal(0, 9, (1, 5, 400)), rng.normal(0, 3, (6, 5, 400))
    values, labels = list(50 + common + own), [list(range(5))] * 6
    means = [value.mean(axis=1) for value in values]
    seeds = seed_variance(means, [True] * 6, labels)
    found, blind = (comparisons.errors(values, seeds, known) for known in (labels, None))
    assert found.residual_M == pytest.approx(np.full(6, 9 / 400), rel=0.1)
    assert blind.residual_M == pytest.approx(np.full(6, 90 / 400), rel=0.1)
    fewer = [values[0][[3, 1]], *values[1:]]  # in another order, and not all of them
    some = [labels[0][3:4] + labels[0][1:2], *labels[1:]]
    assert comparisons.errors(
        fewer, seeds._replace(pooled=False), some
    ).residual_M == pytest.approx(np.full(6, 9 / 400), rel=0.25)


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
    with pytest.raises(ValidationError, match="finite"):  # a file could not hold it
        score_row(0, [math.nan, 1.0])
    assert "decoding seeds" in str(summarise([score_row(0, [1.0])])["rouge_l"])
    assert summarise([])["rouge_l"] == Missing(missing="no prompt was scored")


def test_what_a_seed_does_to_all_rows_is_no_error_of_their_differences() -> None:
    rng = np.random.default_rng(5)
    luck, rest = 3 * rng.standard_normal(4), 0.5 * rng.standard_normal((10, 4))
    means = list(50 + luck + rest)
    blind = seed_variance(means, [True] * 10)
    seeds = [[10, 20, 30, 40]] * 10
    found = seed_variance(means, [True] * 10, seeds)
    assert found.pooled and found.df_M[0] == 27  # (10 - 1) (4 - 1)
    table = rest - rest.mean(axis=0) - rest.mean(axis=1)[:, None] + rest.mean()
    assert found.variance_M[0] == pytest.approx((table**2).sum() / 27)
    assert found.shared == pytest.approx(blind.variance_M[0] - found.variance_M[0])
    assert found.shared_df == 3 and not found.unequal().any()
    for own, mean in zip(without_shared(means, seeds), means, strict=True):
        assert own.mean() == pytest.approx(mean.mean()) and own.std() < mean.std()

    # to a model that was not trained here it is an error, of so many seeds' mean
    taught = seed_variance([*means, np.array([70.0])], [True] * 10 + [False], [*seeds, [""]])
    values = [50 + np.zeros((4, 40)), 50 + np.zeros((4, 40)), 70 + np.zeros((1, 40))]
    three = comparisons.errors(values, taught.of([0, 1, 10]))
    to_row, to_teacher = three.variance(np.array([0, 0]), np.array([1, 2]))[1]
    assert to_teacher - to_row / 2 == pytest.approx(taught.shared / 4)
    drawn = comparisons.column(three, "x").deviations_RM
    off = [np.quantile(np.abs(drawn[:, 0] - drawn[:, i]), 0.68) for i in (1, 2)]
    assert off[1] > 2 * off[0]

    # alone, as beside a published number, all rows have it
    for beside, by_itself in zip(found.spreads(), found.spreads(alone=True), strict=True):
        assert by_itself[0] == pytest.approx(beside[0] + found.shared)
        whole = by_itself[0] ** 2 / (beside[0] ** 2 / beside[1] + found.shared**2 / 3)
        assert by_itself[1] == pytest.approx(whole) and by_itself[1] < beside[1]
    assert taught.spreads(alone=True)[10] == (0, 0), "the teacher has no seed"

    # a row of other seeds is off by what they do, and its difference says so
    other = seed_variance([*means[:9], means[9][:2]], [True] * 10, [*seeds[:9], [10, 20]])
    assert other.unequal()[0] == 0 and other.unequal()[9] == pytest.approx(other.shared / 4)
    values = [50 + np.zeros((4, 40)), 50 + np.zeros((2, 40))]
    same, apart = comparisons.errors(values, other.of([0, 9])), other.spreads()
    pair = np.array([0]), np.array([1])
    assert same.variance(*pair)[1][0] >= other.shared / 4
    assert apart[9][0] > apart[0][0] and apart[9][1] < apart[0][1]


def test_one_loud_row_ends_the_pooling() -> None:
    quiet = np.array([1.1, 0.9, 1.0, 1.2, 0.8, 1.0, 1.1, 0.9, 1.0, 1.0, 0.9, 6.0])
    df = np.full(12, 4.0)
    assert loud(quiet, df).tolist() == [False] * 11 + [True]
    assert not loud(np.minimum(quiet, 1.2), df).any() and not loud(np.array([2.0]), df[:1]).any()
    assert (
        homogeneity_p(quiet, df) >= 0.05
    )  # which Bartlett's test alone would not see at this level
    shape = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) / np.sqrt(2.5)
    means = [50 + np.sqrt(v) * np.roll(shape, i) for i, v in enumerate(quiet)]
    found = seed_variance(means, [True] * 12)
    assert not found.pooled and found.variance_M[11] >= 5.9


def test_few_prompts_widen_what_means_may_be() -> None:
    """As Student's t does for one mean."""
    noise = np.random.default_rng(3).standard_normal((2, 1, 12))
    known = seed_variance([[0.0], [0.0]], [False, False])
    found = comparisons.errors(list(noise), known)
    drawn = comparisons.column(found, "few").deviations_RM
    error = noise[0, 0].std(ddof=1) / np.sqrt(12)
    assert np.quantile(drawn[:, 0], 0.975) == pytest.approx(2.201 * error, rel=0.08)


def test_seeds_that_nobody_shares_or_that_are_few_are_taken_as_they_were() -> None:
    means = [normal(f"row{i}", 3) for i in range(6)]
    own = [[f"{i}{s}" for s in range(3)] for i in range(6)]
    alone, before = seed_variance(means, [True] * 6, own), seed_variance(means, [True] * 6)
    assert alone.share_MS is None and alone.variance_M.tolist() == before.variance_M.tolist()
    few = seed_variance(means[:2], [True] * 2, [[1, 2, 3]] * 2)  # two degrees of freedom are left
    assert few.share_MS is None
    assert seed_variance([[], []], [True] * 2, [[], []]).share_MS is None
