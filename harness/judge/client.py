"""The only door to the ``openai`` package: one question in, one raw response out.

Whatever an endpoint sends, a call ends within ``deadline_s`` (a request within ``timeout_s``) and no
more than `kdbench.harness.judge.transport.LONGEST_REPLY` bytes of it are read or kept.

The key is read from the environment, sent in the Authorization header, and found nowhere else: what
an endpoint echoes of it is blanked before anyone sees it.
"""

import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import httpx2
import openai

from kdbench.harness.endpoints import OPENAI_URL, Asked
from kdbench.harness.errors import InputError
from kdbench.harness.judge.budget import Meter
from kdbench.harness.judge.calls import Messages
from kdbench.harness.judge.transport import Transport, UnfitReply, until

LONGEST_PAUSE = 8.0  # seconds before a retry, where the endpoint does not say how long
SHORTEST_SECRET = 8  # shorter "keys" (none, EMPTY) are placeholders for local endpoints


class Response(NamedTuple):
    """What came back."""

    status: int | None
    body: str
    latency_s: float


def read_key(asked: Asked, base_url: str) -> str | None:
    """The key in the environment variable that is named; None if it is not set or empty.

    Raises:
        InputError: the name is no name (a key typed by mistake is not repeated), the value cannot be
            sent, or there is none and OpenAI's own endpoint wants one.
    """
    variable, spoken = asked.key_env, asked.SPOKEN
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise InputError(
            f"{spoken.key} takes the name of an environment variable, not a key; as in "
            f"{spoken.key} OPENAI_API_KEY"
        )
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise InputError(f"the {spoken.who}'s key has characters that no key has; set it again")
    if not key and base_url == OPENAI_URL:
        raise InputError(
            f"the environment variable of the {spoken.who}'s key is not set; set OPENAI_API_KEY, or name "
            f"another by {spoken.key}, or give an endpoint that needs none by {spoken.url}"
        )
    return key or None


class Client:
    """An OpenAI-compatible chat endpoint. Safe to use from several threads.

    Asked again are 408, 409, 429 and 5xx, time-outs and lost connections, after as long as
    Retry-After says or after growing pauses, unless the deadline comes first.

    Args:
        asked: model, parameters, time limits and number of retries.
        base_url: where.
        key: sent as bearer token; None: no Authorization header.
    """

    def __init__(self, asked: Asked, base_url: str, key: str | None) -> None:
        self._asked = asked
        self._secrets = _spellings(key)
        self._local = threading.local()
        # redirects are refused: they would carry answers, and a request more, to another place
        self._http = httpx2.Client(
            transport=Transport(base_url, asked.concurrency),
            event_hooks={"request": [self._sending], "response": [self._answered]},
            follow_redirects=False,
            timeout=asked.timeout_s,
        )
        # what is not packed can be no bomb
        self._headers: dict[str, Any] = {"Accept-Encoding": "identity"}
        if not key:
            self._headers["Authorization"] = openai.Omit()
        self._client = openai.OpenAI(
            api_key=key or "none",
            base_url=base_url,
            timeout=asked.timeout_s,
            max_retries=0,
            http_client=self._http,
        )

    def __enter__(self) -> Self:
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._blank)
        return self

    def __exit__(self, *_: object) -> None:
        for handler in logging.getLogger().handlers:
            handler.removeFilter(self._blank)
        self._client.close()

    def ask(self, messages: Messages, meter: Meter) -> Response:
        """Asks until there is an answer, retries included; never raises for what an endpoint does.

        Args:
            messages: (role, content) pairs.
            meter: told of every request before it is sent and of every one that is not billed.

        Raises:
            BudgetSpent: the meter refused a retry.
        """
        self._local.meter = meter
        began = time.monotonic()
        end = began + self._asked.deadline_s
        try:
            for attempt in range(self._asked.max_retries + 1):
                status, body, pause = self._request(messages, end)
                if pause is None or attempt == self._asked.max_retries:
                    break
                pause = _grown(attempt) if pause < 0 else pause
                if time.monotonic() + pause >= end:
                    break
                time.sleep(pause)
        finally:
            self._local.meter = None
        return Response(status, self._clean(body), time.monotonic() - began)

    def _request(self, messages: Messages, end: float) -> tuple[int | None, str, float | None]:
        """One request: status, text, and the pause before the next (below 0: as is usual)."""
        shown: Any = [{"role": role, "content": content} for role, content in messages]
        try:
            with until(min(end, time.monotonic() + self._asked.timeout_s)):
                raw = self._client.chat.completions.with_raw_response.create(
                    model=self._asked.model,
                    messages=shown,
                    extra_body=self._asked.sampling(),
                    extra_headers=self._headers,
                )
                return raw.status_code, raw.text, None
        except openai.APIStatusError as error:
            reply = error.response
            pause = asked_pause(reply.headers) if _again(reply) else None
            return error.status_code, reply.text, pause
        except UnfitReply as error:  # may be billed already
            return None, str(error), None
        except openai.OpenAIError as error:  # time-out, no or lost connection, no HTTP at all
            return None, f"{type(error).__name__}: {error}: {_cause(error)}", -1.0

    def _sending(self, request: Any) -> None:
        meter: Meter = self._local.meter
        meter.sending()

        def trace(event: str, _: Mapping[str, Any]) -> None:
            if event.endswith(("connect_tcp.failed", "start_tls.failed")):
                meter.not_billed()

        request.extensions["trace"] = trace

    def _answered(self, response: Any) -> None:
        if response.status_code >= 300:
            self._local.meter.not_billed()

    def _blank(self, record: logging.LogRecord) -> bool:
        """Blanks the key in whatever the package logs, a server's echo of it included."""
        record.msg, record.args = self._clean(record.getMessage()), ()
        return True

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return text.encode("utf-8", "replace").decode()


def _again(reply: Any) -> bool:
    """Whether the same request may fare better later."""
    said = reply.headers.get("x-should-retry")
    if said in ("true", "false"):
        return bool(said == "true")
    return reply.status_code in (408, 409, 429) or reply.status_code >= 500


def asked_pause(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks for, as a number or a date; below 0 if it says nothing."""
    said = headers.get("retry-after", "")
    try:
        return (
            max(float(said), 0.0)
            if re.fullmatch(r"[0-9.]{1,12}", said)
            else max(parsedate_to_datetime(said).timestamp() - time.time(), 0.0)
        )
    except (ValueError, TypeError, OverflowError):
        return -1.0


def _grown(attempt: int) -> float:
    """Half a second, doubled each time, less up to a quarter so that callers part."""
    return min(0.5 * 2.0 ** min(attempt, 10), LONGEST_PAUSE) * (1 - 0.25 * random.random())


def _spellings(key: str | None) -> list[str]:
    if key is None or len(key) < SHORTEST_SECRET:
        return []
    escaped = json.dumps(key)[1:-1]
    return sorted({key, escaped, escaped.replace("/", "\\/"), quote(key, safe="")}, key=len)[::-1]


def _cause(error: BaseException) -> str:
    cause = error.__cause__
    return f"{type(cause).__name__} {cause}".strip() if cause is not None else "no cause given"
