"""Bundles give what their runs give, byte by byte, add up, and are trusted in nothing."""

import io
import json
import lzma
import resource
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import fakes
import numpy as np
import pytest
from board_runs import write_run
from report_runs import trained_run

from kdbench.harness.config import RunConfig, with_precision
from kdbench.harness.errors import InputError
from kdbench.harness.files.bundle import columns
from kdbench.harness.files.bundle.contents import CONTENTS, DOCUMENTS, GROUPS, MEMBERS, NUMBERS
from kdbench.harness.files.bundle.opening import opened
from kdbench.harness.files.content import check_content
from kdbench.harness.files.records import IdentityRecord
from kdbench.harness.files.run_folder import Config, RunFolder, runs_in
from kdbench.harness.files.selfcheck import with_digest
from kdbench.harness.files.store import write_json
from kdbench.harness.identity import VERSION, Contents, run_id, run_parts
from kdbench.harness.study.bundled import bundled_plan
from kdbench.harness.study.definition import Study, StudyRow, expand
from kdbench.reports.board import build, leaderboard_folder
from kdbench.reports.bundle import write_bundle
from kdbench.reports.runs import finished_runs


def write_runs(place: Path) -> Path:
    """Two methods under two seeds, and a teacher."""
    for method, level in (("sft", 30.0), ("gkd", 40.0)):
        for seed in (1, 2):
            write_run(
                place,
                method,
                level + seed,
                tasks=("dolly", "sni"),
                training_seed=seed,
                settings=method * 8,
            )
    write_run(place, "teacher", 60.0, tasks=("dolly", "sni"), kind="eval", training_seed=None)
    return place


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("bundled") / "runs")


def board(places: list[Path], out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in leaderboard_folder(places, out)}


def test_a_bundle_gives_the_board_of_its_runs_and_their_page(runs: Path, tmp_path: Path) -> None:
    made = write_bundle([runs], tmp_path / "all")
    assert made.answers > 0
    whole = board([runs], tmp_path / "one")
    assert whole["index.html"].count(b'"count":30,"of":30') == 2
    small = board([tmp_path / "all"], tmp_path / "two")
    page = small.pop("index.html").decode()
    assert small == {name: data for name, data in whole.items() if name != "index.html"}
    assert page.count('"count":24,"of":30') == 2, "of each task the first prompts are in a bundle"
    assert leaderboard_folder([tmp_path / "all"], tmp_path / "two", verify=True)


def test_the_same_runs_give_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    folders = [run.path for run in runs_in(runs)]
    for name, places in (("a", folders), ("b", folders[::-1]), ("c", [tmp_path / "a"])):
        write_bundle(places, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "c").read_bytes()


def test_bundles_add_up_and_a_run_counts_once(runs: Path, tmp_path: Path) -> None:
    first, *rest = [run.path for run in runs_in(runs)]
    write_bundle(rest[:3], tmp_path / "a")
    write_bundle(rest[1:], tmp_path / "b")
    places = [tmp_path / "a", tmp_path / "b", first]
    several, whole = board(places, tmp_path / "one"), board([runs], tmp_path / "two")
    assert {several.pop("index.html") != whole.pop("index.html"), several == whole} == {True}
    assert len(finished_runs([*places, runs])[0]) == 5


def test_of_copies_the_one_counts_that_was_asked_most(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "a", "sft", 30.0, training_seed=1)
    write_run(tmp_path / "a", "sft", 31.0, training_seed=2)
    write_bundle([tmp_path / "a"], tmp_path / "scores")
    (key,) = RunFolder(plain).summary.read().scores
    fakes.edit(plain / "summary.json", {f"probes.{key}": {"self_bleu": {"mean": 30.0}}})
    write_bundle([tmp_path / "a"], tmp_path / "probed")
    judged = {"gpt": {"evaluations": {key: {"metrics": {"win_rate": 50.0}}}}}
    fakes.edit(plain / "summary.json", {"probes": {}, "judge": judged})
    write_bundle([tmp_path / "a"], tmp_path / "judged")
    kept, problems = finished_runs([tmp_path / name for name in ("scores", "probed", "judged")])
    assert kept[0].summary.judge and not problems
    kept, _ = finished_runs([tmp_path / "scores", tmp_path / "probed"])
    assert kept[0].summary.probes
    # plain copies are no further seeds either; one with other scores is named
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (table,) = build([tmp_path / "a", tmp_path / "b"]).board.tables
    assert [row.training_seeds for row in table.rows] == [[1, 2]]
    fakes.edit(tmp_path / "b" / plain.name / "summary.json", {f"scores.{key}.prompts_dropped": 1})
    kept, (problem,) = finished_runs([tmp_path / "a", tmp_path / "b"])
    assert len(kept) == 2
    assert problem == f"{plain.name}: there 2 times with different scores, one counts"


def test_content_says_what_a_bundle_covers(runs: Path, tmp_path: Path) -> None:
    run = RunFolder(runs_in(runs)[0].path)
    evaluation = run.evaluations()[0]
    evaluation.generated.mark([evaluation.samples_file(seed) for seed in evaluation.seeds()])
    write_bundle([run.path], tmp_path / "one")
    found = check_content(runs_in(opened(tmp_path / "one"))[0])
    assert not found.damaged
    assert found.elsewhere["answers"].files == 2
    evaluation.generated.unmark()


@pytest.mark.parametrize(
    "text",
    [
        '{"metrics":{"a":[1.0,2.5],"b":[1e-7,-3]}}\n{"metrics":{"a":[1.0,2.5],"b":[0.1,0.1]}}\n',
        '{"metrics":{"a":[1.0]},"missing":{"b":"why"}}\n{"metrics":{"a":[2.0],"b":[1]}}\n',
        '{"metrics":{},"missing":{"b":"why"}}\n{"metrics":{"b":[0.25]}}\n',
    ],
)
def test_scores_come_back_to_the_byte(text: str) -> None:
    table = columns.take_apart(text.encode())
    assert table is not None
    files = [("run", "one"), ("run", "two")]
    assert [*columns.decode(*columns.encode(files, [table, table]))] == [
        (file, text.encode()) for file in files
    ]


@pytest.mark.parametrize(
    "text",
    ["", "no line end", "{}\n", '{"metrics":{"a":[1,2],"b":[1]}}\n', '{"metrics":{"a":[1, 2]}}\n'],
)
def test_scores_of_another_hand_are_kept_as_they_are(text: str) -> None:
    assert columns.take_apart(text.encode()) is None


# -- foreign data -----------------------------------------------------------------------------------

Change = Callable[[dict[str, bytes]], None]


def changed(bundle: Path, change: Change, kinds: dict[str, bytes] | None = None) -> Path:
    """The bundle with other members, whose digests are right."""
    import hashlib

    with tarfile.open(bundle) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    change(members)
    contents = json.loads(members[CONTENTS])
    contents["sha256"] = {
        n: hashlib.sha256(d).hexdigest() for n, d in members.items() if n != CONTENTS
    }
    contents.pop("digest")
    members[CONTENTS] = with_digest(contents).encode()
    with tarfile.open(bundle, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.type = (kinds or {}).get(name, tarfile.REGTYPE)
            member.linkname = "/etc/passwd"
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return bundle


def line_more(run: str, name: str) -> Change:
    def change(members: dict[str, bytes]) -> None:
        lines = lzma.decompress(members[DOCUMENTS])
        line = json.dumps([run, name, "planted"]).encode() + b"\n"
        members[DOCUMENTS] = lzma.compress(lines + line)

    return change


@pytest.mark.parametrize(
    "name",
    [
        "../../outside",
        "/tmp/outside",
        "eval/../../../outside/evaluation.json",
        "train/student/model.py",
        "summary.json",  # there already
        "eval/dolly@1/samples.seed1.jsonl.exe",
    ],
)
def test_a_bundle_writes_its_own_files_only(runs: Path, tmp_path: Path, name: str) -> None:
    run = runs_in(runs)[0]
    bundle = tmp_path / "bundle"
    write_bundle([run.path], bundle)
    changed(bundle, line_more(run.name, name))
    with pytest.raises(InputError, match=r"is no bundle of runs that can be read \(it holds"):
        opened(bundle)


def test_a_bundle_names_no_run_that_leads_out(runs: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write_bundle([runs_in(runs)[0].path], bundle)

    def renamed(members: dict[str, bytes]) -> None:
        line_more("..", "config.json")(members)
        contents = json.loads(members[CONTENTS])
        members[CONTENTS] = json.dumps(contents | {"runs": ["..", *contents["runs"]]}).encode()

    with pytest.raises(InputError, match="no file of its runs"):
        opened(changed(bundle, renamed))


def test_what_is_no_bundle_or_is_damaged_is_one_sentence(runs: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write_bundle([runs_in(runs)[0].path], bundle)
    whole = bundle.read_bytes()

    def bomb(members: dict[str, bytes]) -> None:
        members[DOCUMENTS] = lzma.compress(b"\n" * 10)[:-20]

    spoilt = {
        "flipped": whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:],
        "short": whole[: len(whole) // 2],
        "text": b"not a bundle",
        "empty": b"",
    }
    for name, data in spoilt.items():
        (tmp_path / name).write_bytes(data)
    places = [tmp_path / name for name in spoilt]
    places.append(changed(bundle, bomb))
    (tmp_path / "linked").write_bytes(whole)
    places.append(changed(tmp_path / "linked", lambda _: None, {MEMBERS[1]: tarfile.SYMTYPE}))
    (tmp_path / "more").write_bytes(whole)
    places.append(changed(tmp_path / "more", lambda members: members.update(extra=b"x")))
    for place in places:
        with pytest.raises(InputError, match="is no bundle of runs that can be read") as caught:
            opened(place)
        assert "\n" not in str(caught.value)


def test_scores_that_are_not_those_of_the_summary_leave_their_run_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs", "sft", 30.0)
    folder = RunFolder(run)
    summary = folder.summary.read()
    ((key, scores),) = summary.scores.items()
    other = scores.model_copy(update={"scores_sha256": "0" * 64})
    write_json(folder.summary.path, summary.model_copy(update={"scores": {key: other}}))
    from kdbench.harness.files.bundle.packing import pack

    pack([folder], tmp_path / "bundle", {})
    with pytest.raises(InputError, match="is not what the summary was made of"):
        finished_runs([tmp_path / "bundle"])


def test_verbs_take_a_bundle_in_place_of_a_folder_of_runs(
    kdbench: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    run, bundle = trained_run(tmp_path / "runs"), tmp_path / "all.bundle"
    write_bundle([run], bundle)
    name = run.name
    code, listed, error = kdbench("ls", "runs", "--runs-dir", bundle, "--json")
    assert code == 0 and [row["run"] for row in json.loads(listed)] == [name], error
    code, shown, error = kdbench("show", name, "--runs-dir", bundle)
    assert code == 0 and name in shown, error
    (unpacked,) = [run.path for run in runs_in(opened(bundle)) if run.name == name]
    code, _, error = kdbench("report", name, "--runs-dir", bundle)
    assert code == 2 and "--out" in error and not (unpacked / "report").exists()
    code, _, error = kdbench("report", name, "--runs-dir", bundle, "--out", tmp_path / "report")
    assert (tmp_path / "report" / "report.md").is_file(), error
    assert not (unpacked / "report").exists()
    code, _, error = kdbench("show", name, "--runs-dir", run / "summary.json")
    assert code == 2 and "is no bundle of runs" in error


GAP = "\0"
LIMIT = 2 * 2**30
"""Bytes of memory in which a small bundle is refused, Python and its libraries included."""


def repeated(value: str, answers: int, count: int = 1) -> Change:
    """Scores of one prompt: one value, of which many answers have the same."""

    def change(members: dict[str, bytes]) -> None:
        line = json.dumps(["r", "config.json", "{}"]).encode() + b"\n"
        members[DOCUMENTS] = lzma.compress(line)
        group = {
            "files": [["r", "eval/dolly@1/scores.jsonl"]],
            "skeleton": [f'{{"metrics":{{"a":{GAP}}}}}'],
            "answers": answers,
            "values": [[value]],
            "numbers": 1 + count + answers,
        }
        members[GROUPS] = lzma.compress(json.dumps([group]).encode())
        numbers = np.zeros(1 + count + answers, dtype=np.uint16)
        numbers[0] = count
        low, high = (numbers & 0xFF).astype(np.uint8), (numbers >> 8).astype(np.uint8)
        members[NUMBERS] = lzma.compress(low.tobytes() + high.tobytes())
        contents = json.loads(members[CONTENTS])
        members[CONTENTS] = json.dumps(contents | {"runs": ["r"]}).encode()

    return change


def of_document(name: str, text: str) -> Change:
    """One document."""

    def change(members: dict[str, bytes]) -> None:
        repeated("1", 1)(members)
        line = json.dumps(["r", name, text]).encode() + b"\n"
        members[DOCUMENTS] = lzma.compress(line, preset=0)

    return change


DEEP = "[" * 900 + ",".join("0" * 50_000) + "]" * 900
HUGE: dict[str, Change] = {
    "a long value": repeated("1" * 200_000, 2_000),
    "many answers": repeated("1", 6_000_000),
    "more answers than numbers": repeated("1", 2_000_000, 0),
    "a long document": of_document("config.json", "x" * (65 * 2**20)),
    "a deep document": of_document("config.json", f'{{"a":{DEEP}}}\0'),
    "a deeper document": of_document("config.json", "[" * 100_000 + "}\0"),
    "a long key": of_document(f"eval/{'界' * 90}@1/evaluation.json", "{}"),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_small_bundle_takes_little_room(name: str, runs: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write_bundle([runs_in(runs)[0].path], bundle)
    changed(bundle, HUGE[name])
    assert bundle.stat().st_size < 200_000
    allowed = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, allowed[1]))
    try:
        with pytest.raises(InputError, match="is no bundle of runs that can be read") as caught:
            opened(bundle)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, allowed)
    assert "\n" not in str(caught.value) and "MemoryError" not in str(caught.value)


def test_a_bundle_is_plain_files_of_plain_names(runs: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write_bundle([runs_in(runs)[0].path], bundle)
    whole = bundle.read_bytes()
    refused = []

    def named(members: dict[str, bytes]) -> None:
        line_more("界" * 200, "config.json")(members)
        contents = json.loads(members[CONTENTS])
        members[CONTENTS] = json.dumps(contents | {"runs": ["界" * 200]}).encode()

    refused.append(changed(bundle, named))
    (tmp_path / "sparse").write_bytes(whole)
    kinds = {DOCUMENTS: tarfile.GNUTYPE_SPARSE}
    refused.append(changed(tmp_path / "sparse", lambda _: None, kinds))
    with tarfile.open(tmp_path / "deep", "w") as tar:
        for name in MEMBERS:
            member = tarfile.TarInfo(name)
            member.size = 200_000
            tar.addfile(member, io.BytesIO(b"[" * member.size))
    refused.append(tmp_path / "deep")
    for place in refused:
        with pytest.raises(InputError, match="is no bundle of runs that can be read") as caught:
            opened(place)
        assert "\n" not in str(caught.value)


# -- studies ----------------------------------------------------------------------------------------


def test_a_study_finds_its_runs_in_a_bundle(tmp_path: Path) -> None:
    rows = (StudyRow(label="plain", method="sft"), StudyRow(label="taught", method="fkd"))
    study = Study(title="Two", suite="mini-test", seeds=(10,), rows=rows, base="plain")
    cells = expand(study)
    contents = Contents("teacher", "student", "train", "dev", "text")
    write_identified(tmp_path / "runs", cells[0].config, contents)
    write_bundle([tmp_path / "runs"], tmp_path / "bundle")
    plan = bundled_plan(cells, opened(tmp_path / "bundle"))
    assert [planned.state.done for planned in plan.cells] == [True, False]
    other = expand(study, ["train.lr=1e-5"])
    assert not bundled_plan(other, opened(tmp_path / "bundle")).cells[0].state.done
    write_identified(tmp_path / "runs", cells[0].config, contents._replace(teacher="another"))
    write_bundle([tmp_path / "runs"], tmp_path / "bundle")
    with pytest.raises(InputError, match="several runs of it"):
        bundled_plan(cells, opened(tmp_path / "bundle"))


def write_identified(place: Path, config: RunConfig, contents: Contents) -> None:
    """A run by hand that says which configuration it is of."""
    run = write_run(place, config.method.name, 30.0)
    config = with_precision(config, "fp32")
    parts = run_parts(config, contents)
    folder = RunFolder(run.rename(place / f"run-{run_id(parts)}"))
    folder.config.write(Config.model_validate(config.model_dump(mode="json")))
    folder.identity.write(IdentityRecord(version=VERSION, parts=parts))
