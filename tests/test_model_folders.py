"""Damaged and unusual model folders end in one clear sentence before anything is made, or work.

Every folder is a function of its number; `odd_folders` and `odd_settings` hold the accidents. A slice
runs here, the whole with ``-m long``; its counts are in docs/reliability.md.
"""

import time
from collections import Counter
from pathlib import Path

import odd_folders
import odd_settings  # noqa: F401 - more accidents
import pytest
from safetensors.torch import load_file

from kdbench.harness import cli
from kdbench.harness.files.cleaning import ABOUT
from kdbench.tasks import mini
from kdbench.trainers.models import load_model

SLICE = 24
WHOLE = 490
"""Ten of each kind of accident."""
SLOWEST = 10.0
"""Seconds of a processor to a refusal, at most; the first one pays for all imports."""
SMALL = ("--suite", "mini-test", "--device", "cpu", "--quiet")
ANSWERS = (
    *("--tasks", "dolly", "--limit", "1"),
    *("--set", "generate.seeds=[10]", "--set", "generate.max_new_tokens=4"),
)
TRAINING = (
    *("--set", "init_sft=null", "--set", "train.steps=1", "--set", "train.batch_size=2"),
    *("--set", "train.warmup=0", "--set", "train.eval_every=0", "--set", "train.select=last"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that accidents happen to: a tiny Llama over the generated world's tokenizer."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    config = mini.model_config("student", "mini-test")
    config.update({"num_hidden_layers": 2, "tie_word_embeddings": False})
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    mini.build_tokenizer().save_pretrained(folder)
    return folder


def command(number: int, odd: Path, whole: Path, runs: Path) -> list[str]:
    """A verb that loads the folder: as a model, a teacher or a student."""
    gguf = odd / "model.gguf"
    name = str(gguf if gguf.exists() and not (odd / "config.json").exists() else odd)
    place = ["--runs-dir", str(runs)]
    match number // 7 % 3:
        case 0:
            return ["eval", "--model", name, *SMALL, *ANSWERS, *place]
        case 1:
            pair = ["--teacher", name, "--student", str(whole)]
        case _:
            pair = ["--teacher", str(whole), "--student", name]
    return ["train", *pair, "--method", "fkd", *SMALL, *TRAINING, *place]


def left(*folders: Path) -> set[str]:
    """What lies there, but for what was found out about whole models."""
    found = {
        path
        for folder in folders
        if folder.exists()
        for path in folder.rglob("*")
        if path != folder / ABOUT  # what a cache says of itself
    }
    return {str(p) for p in found if "preflight" not in p.parts}


def weights_as_stored(folder: Path) -> bool:
    """Whether what loads holds the numbers of its files: nothing random, nothing lost."""
    stored = {
        k: v
        for f in folder.glob("model*.safetensors")
        if f.is_file()
        for k, v in load_file(f).items()
    }
    loaded = load_model(str(folder)).state_dict()
    return stored.keys() == loaded.keys() and all(
        bool((loaded[name] == tensor.to(loaded[name].dtype)).all())
        for name, tensor in stored.items()
    )


def attempt(
    number: int, whole: Path, place: Path, capsys: pytest.CaptureFixture[str], cache: Path
) -> tuple[str, str]:
    """What came of a folder: ``clear`` with its sentence, or ``works``; anything else fails the test."""
    odd = odd_folders.make(number, whole, place)
    runs = place / "runs"
    before = left(cache)
    argv = command(number, odd.path, whole, runs)
    began = time.process_time()
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    seconds = time.process_time() - began
    said = capsys.readouterr().err.strip()
    code = caught.value.code or 0
    context = (number, odd, argv[0], code, said)
    assert "Traceback" not in said, context
    if code == 0:
        assert odd.must != "refuse", context
        assert weights_as_stored(odd.path), context
        return "works", odd.what
    assert code == 2, context
    lines = [line for line in said.splitlines() if line.startswith("kdbench: ")]
    assert len(lines) == 1 and said.endswith(lines[0]), context
    assert lines[0].isprintable() and 30 < len(lines[0]) < 1200, context
    assert odd.must != "same" and "no such option" not in said, context
    assert not left(runs), context
    assert left(cache) == before, context
    assert seconds < SLOWEST, (seconds, *context)
    return "clear", f"{odd.what}: {lines[0]}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("number", range(0, WHOLE, WHOLE // SLICE))
def test_some_folders(
    number: int, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    attempt(number, whole, tmp_path, capsys, cache)


@pytest.mark.long
def test_all_folders(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    counts: Counter[str] = Counter()
    wrong, sentences = [], []
    for number in range(WHOLE):
        place = tmp_path / str(number)
        place.mkdir()
        try:
            outcome, said = attempt(number, whole, place, capsys, cache)
        except (AssertionError, Exception) as error:
            outcome, said = "wrong", f"{type(error).__name__}: {str(error)[:1500]}"
            wrong.append(said)
        counts[outcome] += 1
        sentences.append(f"{number} {outcome} {said}")
    report = [f"tried {WHOLE}", *(f"{what} {count}" for what, count in sorted(counts.items()))]
    with capsys.disabled():
        print("\n" + ", ".join(report), f"\nkinds of accident: {len(odd_folders.ACCIDENTS)}")
    (tmp_path / "sentences.txt").write_text("\n".join(sentences))
    assert not wrong, "\n".join(wrong)
