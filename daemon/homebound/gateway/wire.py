# SPDX-License-Identifier: Apache-2.0
"""The gateway's only way to the network: one fixed address and port, every byte announced before it is sent.

A network backend for httpcore (https://www.encode.io/httpcore/network-backends/) and a transport for httpx.
TLS runs over memory buffers, so what is counted is the ciphertext that TCP carries, handshake included.
There is no name resolution, proxy, redirect, cookie or decompression here.
May import: nothing of ours.
"""

from __future__ import annotations

import errno
import fcntl
import math
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import httpcore
import httpx

# Announced and handed to the kernel in steps of at most this much, so little is ever announced but unsent.
SLICE = 256 * 1024
RECEIVE = 64 * 1024
# linux/sockios.h: bytes in the send queue that were not sent even once.
SIOCOUTQNSD = 0x894B
# How long a closing connection may go on sending what was already announced.
DRAIN_SECONDS = 0.5
# The only response headers that go further. No Set-Cookie, Location or Content-Encoding.
RESPONSE_HEADERS = frozenset(
    {b"content-type", b"content-length", b"date", b"flwr-version-incompatibility-message"}
)
PURPOSE = "homebound.purpose"


class Interrupted(Exception):
    """A message from the supervisor is waiting; the request was given up."""


class ResponseTooLarge(Exception):
    """The peer sent more than a response may hold."""


@dataclass(frozen=True)
class Purpose:
    """What a request is for: its kind in the closed set of federation.KINDS, and the task or ""."""

    kind: str
    task: str = ""


@dataclass(frozen=True)
class Endpoint:
    """Where the gateway may connect. ``name`` is checked against the certificate, ``address`` is dialled.

    ``address`` is an IPv4 or IPv6 literal, ``context`` is None for a link without TLS.
    """

    address: str
    port: int
    name: str
    context: ssl.SSLContext | None


Result = TypeVar("Result")
# (kind of request, TCP payload bytes, task). A negative number takes back bytes that were never sent.
Declare = Callable[[str, int, str], None]


@dataclass
class Line:
    """What the connections of one gateway share: the request in progress, who may interrupt it and how,
    and the time by ``clock`` at which all waiting ends."""

    declare: Declare
    wake: socket.socket | None = None
    clock: Callable[[], float] = time.monotonic
    purpose: Purpose | None = None
    deadline: float = math.inf

    def announce(self, count: int) -> None:
        """Tell the accounts about ``count`` bytes. Raises RuntimeError outside of a request."""
        if self.purpose is None:
            raise RuntimeError("bytes without a purpose must not leave")
        self.declare(self.purpose.kind, count, self.purpose.task)

    def wait(self, sock: socket.socket, event: int, timeout: float | None) -> None:
        """Wait until ``sock`` is ready. Raises TimeoutError, or Interrupted if the wake socket is first."""
        poll = select.poll()
        poll.register(sock, event)
        if self.wake is not None:
            poll.register(self.wake, select.POLLIN)
        seconds = min(math.inf if timeout is None else timeout, self.deadline - self.clock())
        ready = {fd for fd, _ in poll.poll(None if math.isinf(seconds) else max(0.0, seconds) * 1000)}
        if self.wake is not None and self.wake.fileno() in ready:
            raise Interrupted
        if not ready:
            raise TimeoutError("timed out")

    def rest(self, seconds: float) -> None:
        """Wait, unless the wake socket interrupts."""
        poll = select.poll()
        if self.wake is not None:
            poll.register(self.wake, select.POLLIN)
        if poll.poll(seconds * 1000):
            raise Interrupted


@contextmanager
def _as_httpcore(timed_out: type[Exception], failed: type[Exception]) -> Iterator[None]:
    """httpcore expects its own exceptions from a network stream; ours keep the system's as the cause."""
    try:
        yield
    except TimeoutError as error:
        raise timed_out(str(error)) from error
    except OSError as error:  # ssl.SSLError is an OSError
        raise failed(str(error)) from error


class Stream(httpcore.NetworkStream):
    """One TCP connection, with or without TLS, whose sent bytes are announced first."""

    def __init__(self, sock: socket.socket, line: Line) -> None:
        self._sock = sock
        self._line = line
        self._waiting = bytearray()
        self._announced = 0
        self._accepted = 0
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Take bytes of a request; they leave with the first read or when a slice is full.

        So the head and the body of a request make one TLS record and one announcement.
        """
        self._waiting += buffer
        if len(self._waiting) >= SLICE:
            self._flush(timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """At most ``max_bytes`` of the response; b"" when the peer ended."""
        self._flush(timeout)
        with _as_httpcore(httpcore.ReadTimeout, httpcore.ReadError):
            if self._tls is None:
                return self._receive(max_bytes, timeout)
            tls = self._tls
            try:
                return self._through_tls(lambda: tls.read(max_bytes), timeout)
            except ssl.SSLZeroReturnError:
                return b""

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Stream:
        """Put TLS on this connection; the certificate must be for ``server_hostname``."""
        with _as_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError):
            try:
                tls = ssl_context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
                self._through_tls(tls.do_handshake, timeout)
            except BaseException:
                self.close()
                raise
        self._tls = tls
        return self

    def close(self) -> None:
        """Close, and take back what was announced but can no longer be sent."""
        if self._sock.fileno() < 0:
            return
        unsent = self._announced - self._accepted + self._await_sent()
        if unsent:
            # RST instead of FIN: the kernel drops its queue (socket(7), SO_LINGER with 0 seconds).
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()
        if unsent and self._line.purpose is not None:
            self._line.declare("unsent", -unsent, self._line.purpose.task)

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks of a stream."""
        if info == "ssl_object":
            return self._tls
        if info == "socket":
            return self._sock
        if info == "is_readable":
            poll = select.poll()
            poll.register(self._sock, select.POLLIN)
            return bool(poll.poll(0))
        return None

    def _flush(self, timeout: float | None) -> None:
        with _as_httpcore(httpcore.WriteTimeout, httpcore.WriteError):
            while self._waiting:
                part = bytes(self._waiting[:SLICE])
                if self._tls is None:
                    self._send(part, timeout)
                else:
                    part = part[: self._tls.write(part)]
                    self._send(self._outgoing.read(), timeout)
                del self._waiting[: len(part)]

    def _send(self, data: bytes, timeout: float | None) -> None:
        if not data:
            return
        self._line.announce(len(data))
        self._announced += len(data)
        view = memoryview(data)
        while view:
            try:
                count = self._sock.send(view)
            except BlockingIOError:
                self._line.wait(self._sock, select.POLLOUT, timeout)
                continue
            self._accepted += count
            view = view[count:]

    def _receive(self, max_bytes: int, timeout: float | None) -> bytes:
        while True:
            try:
                return self._sock.recv(max_bytes)
            except BlockingIOError:
                self._line.wait(self._sock, select.POLLIN, timeout)

    def _through_tls(self, step: Callable[[], Result], timeout: float | None) -> Result:
        """Run a step of TLS, moving bytes between its buffers and the socket until it is done."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._send(self._outgoing.read(), timeout)
                data = self._receive(RECEIVE, timeout)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
                continue
            # A read may have to answer (RFC 8446, 4.6.3, key update).
            self._send(self._outgoing.read(), timeout)
            return result

    def _await_sent(self) -> int:
        """Bytes that the kernel holds and has not sent once, after a short wait for it to do so."""
        deadline = self._line.clock() + DRAIN_SECONDS
        while True:
            raw = fcntl.ioctl(self._sock, SIOCOUTQNSD, b"\0\0\0\0")
            count = int(struct.unpack("i", raw)[0])
            if count <= 0 or self._line.clock() >= deadline or self._is_dead():
                return max(0, count)
            select.select([], [], [], 0.01)

    def _is_dead(self) -> bool:
        """Whether the connection is closed on both sides (after a reset), so nothing more can be sent."""
        # linux/tcp.h: tcpi_state is the first byte of tcp_info; TCP_CLOSE is 7.
        return self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 7


class Backend(httpcore.NetworkBackend):
    """Dials the endpoint and nothing else."""

    def __init__(self, endpoint: Endpoint, line: Line) -> None:
        self._endpoint = endpoint
        self._line = line

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Stream:
        """Connect to the endpoint's address; ``host`` and ``port`` must be those that it stands for."""
        end = self._endpoint
        if (host, port) != (end.name, end.port):
            raise httpcore.ConnectError(f"{host}:{port} is not the endpoint of this gateway")
        family = socket.AF_INET6 if ":" in end.address else socket.AF_INET
        with _as_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                # The whole request is written at once; waiting for more would only delay it.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                code = sock.connect_ex((end.address, end.port))
                if code == errno.EINPROGRESS:
                    self._line.wait(sock, select.POLLOUT, timeout)
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, errno.errorcode.get(code, "connect failed"))
            except BaseException:
                sock.close()
                raise
        return Stream(sock, self._line)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> Stream:
        """Not a way to the network."""
        raise httpcore.ConnectError("the gateway has no unix sockets")

    def sleep(self, seconds: float) -> None:
        """Only httpcore's own retries sleep, and they are off."""
        raise RuntimeError("the gateway never sleeps in a request")


class Transport(httpx.BaseTransport):
    """Sends one request after another over at most one connection."""

    def __init__(self, endpoint: Endpoint, line: Line, response_bytes: int) -> None:
        self._line = line
        self._response_bytes = response_bytes
        self._pool = httpcore.ConnectionPool(
            ssl_context=endpoint.context,
            max_connections=1,
            keepalive_expiry=None,
            retries=0,
            network_backend=Backend(endpoint, line),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange. Raises httpcore's errors, OSError, Interrupted, ResponseTooLarge."""
        self._line.purpose = request.extensions[PURPOSE]
        url = request.url
        with self._pool.stream(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.read(),
            extensions={"timeout": request.extensions.get("timeout", {})},
        ) as response:
            body = self._body(response.iter_stream())
            headers = [pair for pair in response.headers if pair[0].lower() in RESPONSE_HEADERS]
            return httpx.Response(response.status, headers=headers, content=body)

    def close(self) -> None:
        """Close the connection if there is one."""
        self._pool.close()

    def _body(self, chunks: Iterator[bytes]) -> bytes:
        parts: list[bytes] = []
        room = self._response_bytes
        for chunk in chunks:
            room -= len(chunk)
            if room < 0:
                raise ResponseTooLarge
            parts.append(chunk)
        return b"".join(parts)
