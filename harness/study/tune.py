"""``kdbench tune`` as a list of steps: trials, finals, the winners under every seed, the board."""

import contextlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.harness.config import RunConfig, slug
from kdbench.harness.contents import Circumstances
from kdbench.harness.errors import InputError
from kdbench.harness.files.folders import cache_folder
from kdbench.harness.files.store import write_json, write_text
from kdbench.harness.printing import visible_json
from kdbench.harness.resolve import resolve
from kdbench.harness.study import tuning
from kdbench.harness.study.command import StudyRequest, jobs_of, make_missing, show_results
from kdbench.harness.study.definition import Study
from kdbench.harness.study.driver import Failure
from kdbench.harness.study.plan import Plan, about, make_cells, make_plan, plan_counts
from kdbench.harness.study.question import folder_for, place_for, short
from kdbench.harness.study.results import make_results
from kdbench.harness.study.state import Place
from kdbench.harness.study.trials import broken, make_trials, without_diverged
from kdbench.harness.study.tuning import Trial, Tried
from kdbench.harness.study.winners import winners_yaml
from kdbench.reports.documents.tuning import TrialRow, tuning_document
from kdbench.reports.figures import renew
from kdbench.reports.figures.tuning import expected_scores
from kdbench.reports.text.formats import write
from kdbench.reports.text.terminal import show


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRequest:
    """What the command line asks for.

    Args:
        making: where and by whom runs are made; its ``settings`` hold for all runs.
        methods: which.
        suite: name or file.
        trials: of each method, the suite's own setting included.
        share: of the budget that a trial has.
        seeds: training seeds of the winners; the first is that of the trials.
    """

    making: StudyRequest
    methods: tuple[str, ...]
    suite: str
    trials: int
    share: float
    seeds: tuple[int, ...]


def tune_command(request: TuneRequest, *, dry_run: bool) -> int:
    """Shows what tuning would run, or does it; returns the exit code.

    A trial whose training diverged is a result like any other: it stops nothing and is not made again.

    Raises:
        InputError: an unknown method or setting, trials that cannot be judged, or a folder with the
            results of another question.
    """
    making = request.making
    where = Circumstances(cache_folder(), making.device, making.data_dir)
    place = Place(making.runs_dir, where)
    configs = {m: _config(request, m) for m in request.methods}
    metric, better = tuning.criterion(configs)
    trials = [t for m in request.methods for t in tuning.trials_of(m, configs[m], request.trials)]
    budgets = {m: tuning.budget_settings(c.train, request.share) for m, c in configs.items()}
    study = tuning.trial_study(request.suite, trials, budgets, request.seeds[0])
    cells = make_cells(study, making.settings, where.cache)
    default = making.runs_dir.parent / "tuning" / slug(Path(request.suite).stem)
    if dry_run:
        known = place_for(_asked(request), default, making.out)
        _announce(request, without_diverged(make_plan(cells, place), known)[0], place)
        return 0
    out = folder_for(_asked(request), default, making.out)
    plan, failures = make_trials(making, cells, place, out)
    tried = _scores(trials, plan, metric, failures)
    each = {m: [t for t in tried if t.trial.method == m] for m in configs}
    meeting = {m: tuning.finalists(mine, request.share, better) for m, mine in each.items()}
    again = [trial for pair in meeting.values() if len(pair) > 1 for trial in pair]
    stopped = bool(broken(failures)) and not making.keep_going
    finals, fallen = _finals(request, place, out, [] if stopped else again, metric)
    failures = broken([*failures, *fallen])
    stopped = bool(failures) and not making.keep_going  # a search that is not whole has no winners
    best = {m: None if stopped else _kept(m, finals, mine, better) for m, mine in each.items()}
    _report(request, _about(request, configs), tried, finals, best, metric, better, out)
    winners = [trial for trial in best.values() if trial is not None]
    if not winners:
        _say_none(making, failures, out)
        return 1
    found = {m: _search_of(request, each[m], finals) for m in configs}
    text = winners_yaml(_command(request), making.settings, winners, configs, found)
    write_text(out / "winners.yaml", text)
    final = tuning.winners_study(request.suite, winners, found, request.seeds)
    cells = make_cells(final, making.settings, where.cache)
    lost = make_missing(making, make_plan(cells, place), place, out)
    results = make_results(final, make_plan(cells, place), out, lost, place, making.settings)
    show_results(making, results, [*failures, *lost], out)
    return 1 if failures or lost or len(winners) < len(configs) else 0


def _asked(request: TuneRequest) -> dict[str, Any]:
    """What decides the winners; more training seeds of theirs make the same board whole."""
    asked = {name: getattr(request, name) for name in ("suite", "methods", "trials", "share")}
    return asked | {"seed": request.seeds[0], "settings": request.making.settings}


def _command(request: TuneRequest) -> str:
    """The command, but for places and machines."""
    words = ["kdbench", "tune", "--suite", request.suite, "--methods", ",".join(request.methods)]
    words += ["--trials", f"{request.trials}:{request.share:g}"]
    words += ["--seeds", ",".join(map(str, request.seeds))]
    return shlex.join([*words, *(w for text in request.making.settings for w in ("--set", text))])


def _about(request: TuneRequest, configs: Mapping[str, RunConfig]) -> dict[str, Any]:
    """What all trials share, for tables."""
    config = next(iter(configs.values()))
    return {
        "suite": config.suite,
        "pair": f"{short(config.pair.teacher)} → {short(config.pair.student)}",
        "share": request.share,
        "seed": request.seeds[0],
        "settings": list(map(short, request.making.settings)),
    }


def _say_none(making: StudyRequest, failures: Sequence[Failure], out: Path) -> None:
    """That no method has a winner, and why."""
    if making.json_output:
        listed = [{"run": f.name, "reason": f.reason, "log": str(f.log)} for f in failures]
        print(visible_json({"table": None, "failures": listed}, indent=2))
        return
    for failure in failures:
        print(f"failed: {failure.name}: {failure.reason} (log: {failure.log})")
    if not failures:
        print(f"no method has a trial with a score; what became of each: {out / 'trials.md'}")


def _finals(
    request: TuneRequest, place: Place, out: Path, trials: Sequence[Trial], metric: str
) -> tuple[list[Tried], list[Failure]]:
    """Trials trained at the whole budget, and what failed of them."""
    if not trials:
        return [], []
    study = tuning.final_study(request.suite, trials, request.seeds[0])
    cells = make_cells(study, request.making.settings, place.where.cache)
    plan, failures = make_trials(request.making, cells, place, out)
    return _scores(trials, plan, metric, failures), failures


def _kept(
    method: str, finals: Sequence[Tried], tried: Sequence[Tried], better: int
) -> Trial | None:
    """Whose settings a method keeps: of those that met at the whole budget, else of its trials."""
    met = [each for each in finals if each.trial.method == method]
    best = tuning.winner(met or tried, better)
    return best and best.trial


def _config(request: TuneRequest, method: str) -> RunConfig:
    return resolve(suite=request.suite, method=method, assignments=request.making.settings)


def _search_of(
    request: TuneRequest, tried: Sequence[Tried], finals: Sequence[Tried]
) -> dict[str, Any]:
    """What is said of the search of the method whose trials these are."""
    met = [each for each in finals if each.trial.method == tried[0].trial.method]
    return tuning.search_of(tried, met, request.share)


def _planned_winners(request: TuneRequest, winners: Sequence[Trial]) -> Study:
    whole = tuning.how_tuned(request.trials, request.share)
    tuned = {trial.method: whole for trial in winners}
    return tuning.winners_study(request.suite, winners, tuned, request.seeds)


def _announce(request: TuneRequest, plan: Plan, place: Place) -> None:
    """How many runs of each stage there are, and about how long they take."""
    chosen = [Trial(method, 1, ()) for method in request.methods]
    making, jobs = request.making, jobs_of(request.making)

    def planned(study: Study) -> Plan:
        return make_plan(make_cells(study, making.settings, place.where.cache), place)

    stages = {"trials": plan}
    if request.share < 1:
        own = planned(tuning.final_study(request.suite, chosen, request.seeds[0]))
        stages["finals (of the suite's settings, beside the best trial's first seed)"] = own
    stages["winners (by the suite's settings)"] = planned(_planned_winners(request, chosen))
    seconds = sum(made.seconds(jobs) for made in stages.values())
    unknown = sum(made.unknown() for made in stages.values())
    if making.json_output:
        listed = [{"stage": stage, **plan_counts(made, jobs)} for stage, made in stages.items()]
        said = {"stages": listed, "seconds": round(seconds, 1), "unknown": unknown, "jobs": jobs}
        print(visible_json(said, indent=2))
        return
    for stage, made in stages.items():
        print(f"{stage}: {made.progress()}, {made.about(jobs)}, {jobs} at a time")
    runs = sum(len(made.unfinished()) for made in stages.values())
    print(f"in all {about(seconds, unknown, runs)}")


def _scores(
    trials: Sequence[Trial], plan: Plan, metric: str, failures: Sequence[Failure]
) -> list[Tried]:
    """Every trial's score on the development set, at the step that its training selected."""
    reasons = {failure.name: failure.reason for failure in failures}
    found = []
    for trial, planned in zip(trials, plan.cells, strict=True):
        run, cell = planned.state.run, planned.cell
        if run is None or not planned.state.done:
            found.append(Tried(trial, None, reasons.get(cell.name, "has not run")))
            continue
        learned = run.summary.read().learned
        score = learned.get(f"{metric}_selected")
        found.append(Tried(trial, score, "" if score is not None else f"no {metric} was measured"))
    return found


def _report(
    request: TuneRequest,
    said: Mapping[str, Any],
    tried: Sequence[Tried],
    finals: Sequence[Tried],
    best: dict[str, Trial | None],
    metric: str,
    better: int,
    out: Path,
) -> None:
    """Writes ``trials.{md,csv,json}`` and the figure; shows the table."""
    whole = {each.trial: each.score for each in finals}
    rows = [_row(t, whole.get(t.trial), best[t.trial.method] == t.trial) for t in tried]
    document = tuning_document(rows, metric, request.share, said)
    for ending, format in (("md", "md"), ("csv", "csv")):
        write_text(out / f"trials.{ending}", write(document, format))
    listed = [row._asdict() for row in rows]
    write_json(out / "trials.json", {**said, "metric": metric, "trials": listed})
    curves = {
        m: tuning.expected_best(scores, better)
        for m in request.methods
        if (scores := [t.score for t in tried if t.trial.method == m and t.score is not None])
    }
    renew(expected_scores(curves, metric), out / "expected-best")
    if not (request.making.quiet or request.making.json_output):
        show(document)


def _row(tried: Tried, whole: float | None, won: bool) -> TrialRow:
    method, number, settings = tried.trial
    return TrialRow(method, number, list(settings), tried.score, whole, tried.reason, won)


def trials_and_share(text: str) -> tuple[int, float]:
    """``8:0.25`` as a number of trials and the share of the budget that each has (``8``: a quarter).

    Raises:
        InputError: not two such numbers.
    """
    first, _, second = text.partition(":")
    with contextlib.suppress(ValueError):
        count, share = int(first), float(second or 0.25)
        if count >= 1 and 0 < share <= 1:
            return count, share
    raise InputError(
        f"--trials {text}: write how many settings are tried and, if it is no quarter, the share of the "
        "budget that each has, as in 8:0.25"
    )
