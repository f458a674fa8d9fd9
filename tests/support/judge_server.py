"""A scripted OpenAI-compatible endpoint: a real HTTP server that answers as a test says.

A script is a function of the request's body and its number (from 0) that returns what to do:
`say` something, send a `Raw` response, `Hang`, or `Cut` the connection.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Raw:
    """A response as it goes over the wire."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


@dataclass(frozen=True)
class Hang:
    """No response for so long, then a cut connection."""

    seconds: float


@dataclass(frozen=True)
class Cut:
    """The connection is closed before the response, or in the middle of its body."""

    in_body: bool = False


Action = Raw | Hang | Cut
Script = Callable[[dict[str, Any], int], Action]


def say(
    content: Any,
    *,
    finish: str = "stop",
    refusal: str | None = None,
    usage: Any = (100, 10),
    delay: float = 0.0,
) -> Raw:
    """A chat completion with this content."""
    if isinstance(usage, tuple):
        usage = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": 0}
    message = {"role": "assistant", "content": content, "refusal": refusal}
    document = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "judge",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage,
    }
    return Raw(json.dumps(document).encode(), delay=delay)


def failure(status: int, message: str = "no", code: str = "", **headers: str) -> Raw:
    """An error as OpenAI words it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"error": {"message": message, "type": "error", "code": code}}
    return Raw(json.dumps(body).encode(), status, named)


class JudgeServer:
    """Serves a script while the block runs, and remembers what was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.authorizations: list[str | None] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._guard = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:  # clients that were killed
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Notes one request and does what the script says."""
        length = int(handler.headers.get("Content-Length", 0))
        body = json.loads(handler.rfile.read(length))
        with self._guard:
            number = len(self.requests)
            self.requests.append(body)
            self.times.append(time.monotonic())
            self.authorizations.append(handler.headers.get("Authorization"))
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            self._act(handler, self.script(body, number))
        finally:
            with self._guard:
                self.in_flight -= 1

    def _act(self, handler: BaseHTTPRequestHandler, action: Action) -> None:
        if isinstance(action, Hang):
            time.sleep(action.seconds)
        if isinstance(action, Raw):
            time.sleep(action.delay)
            handler.send_response(action.status)
            for name, value in {"Content-Type": "application/json", **action.headers}.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(action.body)))
            handler.end_headers()
            handler.wfile.write(action.body)
            return
        if isinstance(action, Cut) and action.in_body:
            handler.send_response(200)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b'{"choices": [')
        handler.close_connection = True

    def distinct(self) -> Counter[str]:
        """How often each question was asked."""
        return Counter(json.dumps(r["messages"], sort_keys=True) for r in self.requests)


def shown(body: dict[str, Any]) -> str:
    """What a judge is shown."""
    return "\n".join(message["content"] for message in body["messages"])
