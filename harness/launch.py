"""How this process was started: alone, or as one of several by torchrun or accelerate.

Launchers say it in the environment. What they ask for and kdbench does not do is refused here, before
anything is loaded.
"""

import os
import re
import sys
import time
from pathlib import Path

from kdbench.harness.errors import InputError

PATIENCE = 5.0
"""Seconds in which the first process says what ended all of them."""
SHARDERS = {
    "ACCELERATE_USE_FSDP": "--use_fsdp",
    "ACCELERATE_USE_DEEPSPEED": "--use_deepspeed",
    "ACCELERATE_USE_MEGATRON_LM": "--use_megatron_lm",
}
"""What accelerate's launcher sets for its own ways of sharding, and the option that asks for it."""
COUNT = re.compile(r"--num[_-]processes(?:=(\d+))?")


def rank() -> int:
    """Of this process among those that were started together; 0 for one alone."""
    return _number("RANK", 0) if world() > 1 else 0


def local_rank() -> int:
    """Among those of this machine."""
    return _number("LOCAL_RANK", 0) if world() > 1 else 0


def local_world() -> int:
    """How many processes were started together on this machine; all of them, where nobody says."""
    return _number("LOCAL_WORLD_SIZE", world())


def world() -> int:
    """How many processes were started together."""
    return _number("WORLD_SIZE", 1)


def speaks() -> bool:
    """Whether this process may write to the terminal: of several, the first."""
    return rank() == 0


def wait_for_the_first() -> None:
    """Lets the first process say why all end; its launcher then ends this one, and nothing is said twice."""
    if not speaks():
        time.sleep(PATIENCE)


def check_launch() -> None:
    """Sees that this process was started as it can work; starts what accelerate left out.

    ``accelerate launch --cpu --num_processes N`` starts one process whatever N is. Where N can be read
    from its command line, this process becomes torchrun, which starts N.

    Raises:
        InputError: sharding was asked of accelerate, or several processes that are not there.
    """
    for variable, option in SHARDERS.items():
        if os.environ.get(variable, "").lower() in ("true", "1", "yes"):
            raise InputError(
                f"accelerate launch {option} is not supported: kdbench shards the student itself, with its "
                f"losses inside; leave {option} out and add --set parallel.shard=fsdp2 (docs/parallel.md)"
            )
    if _left_alone():
        asked = _asked_of_parent()
        if asked is None:
            raise InputError(
                "accelerate launch was asked for several processes but started one, as it does on a CPU "
                "without MPI; start them with: torchrun --nproc-per-node N $(which kdbench) …"
            )
        _become_torchrun(asked)


def check_started(found: int) -> None:
    """Raises InputError unless as many processes found each other as were started."""
    if found != world():
        raise InputError(
            f"{world()} processes were started but {found} found each other; start them with: torchrun "
            f"--nproc-per-node {world()} $(which kdbench) …"
        )


def _left_alone() -> bool:
    """Whether accelerate's launcher promised others, by a place to meet, and started none."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    known = ("WORLD_SIZE", "RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    return launched and not any(name in os.environ for name in known)


def _asked_of_parent() -> int | None:
    """How many processes the launcher was asked for on this machine, by its command line."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode().split("\0")
    except (OSError, UnicodeDecodeError):  # another system
        return None
    if any(word.startswith(("--num_machines", "--num-machines")) for word in words):
        return None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if found := COUNT.fullmatch(word):
            count = found.group(1) or following
            return int(count) if count.isdecimal() else None
    return None


def _become_torchrun(count: int) -> None:
    """Replaces this process by a launcher of as many as were asked for; does not return."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):  # it finds its own
        del os.environ[name]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *launcher, *sys.argv])


def _number(name: str, default: int) -> int:
    given = os.environ.get(name, "")
    return int(given) if given.isdecimal() else default
