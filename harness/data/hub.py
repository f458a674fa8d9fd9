"""Files of data sets on the Hugging Face hub; fails fast where there is no network."""

import contextlib
import socket
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from kdbench.harness.errors import InputError

PROBE_SECONDS = 3.0


def reachable() -> bool:
    """Whether the hub (or the proxy before it) answers within `PROBE_SECONDS`.

    False in offline mode. Asked first, because the hub's client retries for most of a minute.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    parts = urlsplit(proxy or constants.ENDPOINT)
    address = (parts.hostname or "huggingface.co", parts.port or (80 if proxy else 443))
    answers: list[bool] = []

    def probe() -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(address, timeout=PROBE_SECONDS),
        ):
            answers.append(True)

    # in a thread, because looking up a name has no time limit of its own
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers)


def find_file(repository: str, candidates: Iterable[str]) -> Path | str:
    """The first candidate file of a data set repository, downloaded or cached.

    Returns:
        Its path, or a short text that says why there is none.
    """
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    online = reachable()
    known: dict[str, Any] = {"repo_type": "dataset", "etag_timeout": PROBE_SECONDS}
    fetch = partial(hf_hub_download, local_files_only=not online, **known)
    for name in candidates:
        try:
            return Path(fetch(repository, name))
        except LocalEntryNotFoundError:  # online: no answer, whatever the file is called
            if online:
                return "the hub does not answer"
        except EntryNotFoundError:
            continue
        except (OSError, ValueError) as error:  # HfHubHTTPError is an OSError
            return str(error).splitlines()[0][:200]
    if online:
        return "no such file there"
    return "offline mode is on" if constants.HF_HUB_OFFLINE else "the hub does not answer"


def validation_rows(repository: str, looked: str) -> list[tuple[int, dict[str, Any]]]:
    """(index, row) of a data set's validation split, through `datasets`.

    Args:
        repository: hub id.
        looked: what was looked for on this machine, for the message.

    Raises:
        InputError: it cannot be had.
    """
    import datasets

    reason = "the hub does not answer"
    if reachable():
        try:
            found = datasets.load_dataset(repository, split="validation")
            return [(index, dict(row)) for index, row in enumerate(found)]
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:200]
    raise InputError(
        f"no {looked} and no {repository} from the Hugging Face hub ({reason}); give --data-dir "
        "(or KDBENCH_DATA) with that file, or connect to the network"
    )
