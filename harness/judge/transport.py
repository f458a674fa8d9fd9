"""HTTP to an endpoint that is not trusted: a reply has a largest size, and a request an end.

Every read, write and handshake waits no longer than what is left until the request's deadline, so a
server that sends a byte now and then ends too; header lines are bounded by h11 (100 kB together).
A reply is streamed and ended when it is longer than `LONGEST_REPLY`, compressed or unpacked.
"""

import contextlib
import ssl
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore2
import httpx2

LONGEST_REPLY = 256 * 1024
"""Bytes of one reply's body; an answer of 10,000 tokens has about 50,000."""

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_clock = threading.local()


class UnfitReply(Exception):
    """A reply that is not read to its end; asking again would be paid again."""


@contextlib.contextmanager
def until(deadline: float) -> Iterator[None]:
    """Ends what this thread asks inside at a time of `time.monotonic`."""
    _clock.deadline = deadline
    try:
        yield
    finally:
        _clock.deadline = None


def _left(timeout: float | None, error: type[Exception]) -> float | None:
    """How long one operation may wait."""
    deadline: float | None = getattr(_clock, "deadline", None)
    if deadline is None:
        return timeout
    left = deadline - time.monotonic()
    if left <= 0:
        raise error("the request took too long as a whole")
    return left if timeout is None else min(left, timeout)


class _Stream(httpcore2.NetworkStream):
    def __init__(self, inner: httpcore2.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        left = _left(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Network(httpcore2.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        left = _left(timeout, httpcore2.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, left, local_address, socket_options))


class Transport(httpx2.BaseTransport):
    """Connections to one endpoint, through the proxy that the environment names for it.

    Args:
        base_url: the endpoint.
        connections: how many at most.
    """

    def __init__(self, base_url: str, connections: int) -> None:
        url = httpx2.URL(base_url)
        proxies = {} if proxy_bypass(url.host) else getproxies()
        proxy = proxies.get(url.scheme) or proxies.get("all")
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            proxy=_proxy(proxy) if proxy else None,
            max_connections=connections,
            network_backend=_Network(),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends a request; the reply's body is read, bounded, by who takes it."""
        asked = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx():
            reply = self._pool.handle_request(asked)
        headers = httpx2.Headers(reply.headers)
        packed = headers.pop("content-encoding", "identity").strip().lower()
        return httpx2.Response(
            status_code=reply.status,
            headers=headers,
            stream=_Body(reply.stream, packed),
            extensions=reply.extensions,
        )

    def close(self) -> None:
        """Closes all connections."""
        self._pool.close()


class _Body(httpx2.SyncByteStream):
    """A reply's body, unpacked and bounded."""

    def __init__(self, stream: Any, packed: str) -> None:
        self._stream = stream
        self._packed = packed

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx():
            yield from _bounded(self._stream, self._packed)

    def close(self) -> None:
        self._stream.close()


def _bounded(parts: Iterable[bytes], packed: str) -> Iterator[bytes]:
    """``parts``, unpacked, as long as both are no longer than `LONGEST_REPLY`."""
    if packed not in ("identity", "gzip", "x-gzip", "deflate", ""):
        raise UnfitReply(f"the reply is packed as {packed[:20]!r}, which was not asked for")
    unpack = zlib.decompressobj(_GZIP_OR_ZLIB) if packed not in ("identity", "") else None
    received = given = 0
    for part in parts:
        received += len(part)
        while part:
            data, rest = part, b""
            if unpack is not None:
                try:
                    data = unpack.decompress(part, LONGEST_REPLY + 1)
                except zlib.error as error:
                    raise UnfitReply(f"the reply cannot be unpacked ({error})") from error
                rest = unpack.unconsumed_tail
            given += len(data)
            if max(given, received) > LONGEST_REPLY:
                raise UnfitReply(f"the reply is longer than {LONGEST_REPLY // 1024} KiB")
            yield data
            part = rest


def _proxy(address: str) -> httpcore2.Proxy:
    proxy = httpx2.Proxy(address if "://" in address else f"http://{address}")
    return httpcore2.Proxy(url=str(proxy.url), auth=proxy.raw_auth, headers=proxy.headers.raw)


@contextlib.contextmanager
def _as_httpx() -> Iterator[None]:
    """Turns what the lower library raises into what callers of the upper one know."""
    try:
        yield
    except (
        httpcore2.TimeoutException,
        httpcore2.NetworkError,
        httpcore2.ProtocolError,
        httpcore2.ProxyError,
        httpcore2.UnsupportedProtocol,
    ) as error:
        kind = getattr(httpx2, type(error).__name__, httpx2.TransportError)
        raise kind(str(error)) from error
