"""The only door to the ``openai`` package: one question in, one raw response out.

The key is read from the environment, sent in the Authorization header, and found nowhere else: what
an endpoint echoes of it is blanked before anyone sees it.
"""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import quote

import openai

from kdbench.harness.errors import InputError
from kdbench.harness.judge.budget import Meter
from kdbench.harness.judge.calls import Messages
from kdbench.harness.judge.definition import JudgeDefinition

LONGEST_BODY = 200_000  # characters kept of a response
SHORTEST_SECRET = 8  # shorter "keys" (none, EMPTY) are placeholders for local endpoints


class Response(NamedTuple):
    """What came back."""

    status: int | None
    body: str
    latency_s: float


def read_key(variable: str) -> str | None:
    """The key in an environment variable; None if it is not set or empty.

    Raises:
        InputError: the name is no name (a key typed by mistake is not repeated), or the value
            cannot be sent.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise InputError(
            "--judge-key-env takes the name of an environment variable, not a key; as in "
            "--judge-key-env OPENAI_API_KEY"
        )
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise InputError("the judge's key has characters that no key has; set it again")
    return key or None


class Client:
    """An OpenAI-compatible chat endpoint. Safe to use from several threads.

    Retries are the package's own: 408, 409, 429 and 5xx, time-outs and lost connections, waiting as
    long as Retry-After says (up to two minutes; longer is an error) or with growing pauses.

    Args:
        judge: model, parameters, time-out and number of retries.
        base_url: where.
        key: sent as bearer token; None: no Authorization header.
    """

    def __init__(self, judge: JudgeDefinition, base_url: str, key: str | None) -> None:
        self._judge = judge
        self._secrets = _spellings(key)
        self._local = threading.local()
        # redirects are refused: they would carry answers, and a request more, to another place
        self._http = openai.DefaultHttpxClient(
            event_hooks={"request": [self._sending], "response": [self._answered]},
            follow_redirects=False,
            timeout=judge.timeout_s,
        )
        self._headers = None if key else {"Authorization": openai.Omit()}
        self._client = openai.OpenAI(
            api_key=key or "none",
            base_url=base_url,
            timeout=judge.timeout_s,
            max_retries=judge.max_retries,
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
        """Asks once, the package's retries included; never raises for what an endpoint does.

        Args:
            messages: (role, content) pairs.
            meter: told of every request before it is sent and of every one that is not billed.

        Raises:
            BudgetSpent: the meter refused a retry.
        """
        self._local.meter = meter
        began = time.monotonic()
        try:
            shown: Any = [{"role": role, "content": content} for role, content in messages]
            raw = self._client.chat.completions.with_raw_response.create(
                model=self._judge.model,
                messages=shown,
                extra_body=self._judge.sampling(),
                extra_headers=self._headers,
            )
            status, body = raw.status_code, raw.text
        except openai.APIStatusError as error:
            status, body = error.status_code, error.response.text
        except openai.OpenAIError as error:  # time-out, no or lost connection, undecodable body
            status, body = None, f"{type(error).__name__}: {error}: {_cause(error)}"
        finally:
            self._local.meter = None
        return Response(status, self._clean(body)[:LONGEST_BODY], time.monotonic() - began)

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


def _spellings(key: str | None) -> list[str]:
    if key is None or len(key) < SHORTEST_SECRET:
        return []
    escaped = json.dumps(key)[1:-1]
    return sorted({key, escaped, escaped.replace("/", "\\/"), quote(key, safe="")}, key=len)[::-1]


def _cause(error: BaseException) -> str:
    cause = error.__cause__
    return f"{type(cause).__name__} {cause}".strip() if cause is not None else "no cause given"
