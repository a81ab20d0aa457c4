# SPDX-License-Identifier: Apache-2.0
"""endpoint.py over a real loopback socket: what is served, what is refused, and no socket of its own."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from homebound.watcher import endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment


HEADERS = (("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", "default-src 'none'"))


class Health:
    """What /healthz asks."""

    def __init__(self) -> None:
        self.good = True

    def __call__(self) -> bool:
        return self.good


def page(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    del environ
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"up 23\n"]


def listen(family: socket.AddressFamily, address: str) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((address, 0))
    listener.listen(16)
    return listener


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest, health: Health) -> Iterator[tuple[str, int]]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    listener = listen(family, request.param)
    host, port = listener.getsockname()[:2]
    serving = endpoint.serve(
        listener, endpoint.route(page, health, lambda: b"<p>23</p>", HEADERS), shutdown_seconds=0.02
    )
    yield host, port
    serving.shutdown()
    listener.close()


def ask(server: tuple[str, int], method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*server, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_paths_and_methods(server: tuple[str, int], health: Health) -> None:
    assert ask(server, "GET", "/metrics") == (200, b"up 23\n")
    assert ask(server, "HEAD", "/metrics") == (200, b"")
    assert ask(server, "GET", "/healthz") == (200, b"ok\n")
    health.good = False
    assert ask(server, "GET", "/healthz")[0] == 503
    assert ask(server, "GET", "/") == (200, b"<p>23</p>")
    assert ask(server, "HEAD", "/") == (200, b"")
    assert ask(server, "GET", "/other")[0] == 404
    assert ask(server, "POST", "/metrics")[0] == 405


def test_the_page_comes_with_its_headers(server: tuple[str, int]) -> None:
    connection = http.client.HTTPConnection(*server, timeout=10)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.read() == b"<p>23</p>"
    assert set(HEADERS) <= set(answer.getheaders())
    connection.close()


def test_silent_connections_do_not_shut_others_out(server: tuple[str, int]) -> None:
    silent = [socket.create_connection(server) for _ in range(endpoint.CONNECTIONS - 1)]
    try:
        assert ask(server, "GET", "/healthz")[0] == 200
    finally:
        for connection in silent:
            connection.close()


def test_nonsense_is_no_error_of_ours(server: tuple[str, int], capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(server) as connection:
        connection.sendall(b"\x16\x03\x01 no http\r\n\r\n")
        while connection.recv(4096):
            pass
    assert ask(server, "GET", "/metrics")[0] == 200
    assert capfd.readouterr().err == ""


def test_it_makes_no_socket_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watcher's filter refuses socket(2), and a refused attempt would count as a violation."""
    listener = listen(socket.AF_INET, "127.0.0.1")
    made: list[tuple[object, ...]] = []

    class Counting(socket.socket):
        def __init__(self, *words: object, fileno: int | None = None, **more: object) -> None:
            if fileno is None:
                made.append(words)
            super().__init__(fileno=fileno) if fileno is not None else super().__init__()

    monkeypatch.setattr(socket, "socket", Counting)
    server = endpoint._Server(listener, endpoint.route(page, Health(), lambda: b"", HEADERS))
    assert made == []
    server.server_close()
    socket.socket().close()
    assert made == [()]  # the control: the count does count
