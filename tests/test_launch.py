"""How several processes are started, and what of accelerate is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdbench.harness import cli, launch
from kdbench.harness.errors import InputError
from kdbench.harness.resolve import resolve
from kdbench.harness.session import check_sharing
from kdbench.trainers.parallel.ranks import dealt

LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500", "MASTER_ADDR": "127.0.0.1"}
STARTED = ("WORLD_SIZE", "RANK", "LOCAL_RANK", *LAUNCHED, *launch.SHARDERS)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in STARTED:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_prompts_are_dealt_one_by_one(world: int) -> None:
    sizes = [3, 9, 1, 4] * 8
    shares = dealt(sizes, world)
    assert sorted(i for share in shares for i in share) == list(range(32))
    assert {len(share) for share in shares} == {32 // world}
    loads = [sum(sizes[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes)
    if world == 1:  # in order: what one process does stays as it is
        assert shares == [list(range(32))]


@pytest.mark.parametrize("variable", launch.SHARDERS)
def test_sharding_by_accelerate_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(InputError, match=r"parallel\.shard=fsdp2"):
        launch.check_launch()


def test_processes_that_were_not_started_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "_asked_of_parent", lambda: None)
    with pytest.raises(InputError, match="started one"):
        launch.check_launch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    launch.check_launch()
    with pytest.raises(InputError, match="2 processes were started but 1"):
        launch.check_started(1)


def test_the_launchers_command_line_says_how_many() -> None:
    code = "from kdbench.harness import launch; print(launch._asked_of_parent())"
    for words, said in (
        (["--num_processes", "3"], "3"),
        (["--num-processes=2", "--num_machines", "2"], "None"),
    ):
        parent = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {code!r}])"
        command = [sys.executable, "-c", parent, *words]
        found = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True)
        assert found.stdout.strip() == said, words


def test_shared_models_are_not_decoded_elsewhere() -> None:
    shared = resolve(suite="smollm2", method="opd", assignments=["parallel.shard=fsdp2"])
    check_sharing(shared)
    elsewhere = shared.model_copy(
        update={"generate": shared.generate.model_copy(update={"engine": "vllm"})}
    )
    with pytest.raises(InputError, match="does not decode for models"):
        check_sharing(elsewhere)


class Left(BaseException):
    """Stands for the end of the process: nothing that was registered for its exit runs."""


def test_a_process_that_failed_does_not_part_from_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def left(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr("os._exit", left)
    wrong = ["show", "nothing", "--runs-dir", str(tmp_path)]
    with pytest.raises(SystemExit) as alone:
        cli.main(wrong)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(Left) as failed:
        cli.main(wrong)
    assert alone.value.code == failed.value.args[0] == 2
    assert capfd.readouterr().err.count("kdbench: ") == 2  # flushed before
    with pytest.raises(SystemExit) as done:
        cli.main(["--version"])
    assert not done.value.code
