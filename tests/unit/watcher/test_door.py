# SPDX-License-Identifier: Apache-2.0
"""door.py behind a real server: TLS and nothing else, a password and nothing less."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from homebound import passwords
from homebound.watcher import door, endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

NAME, PASSWORD = "prometheus", "correct horse 23"


@dataclass(frozen=True)
class Place:
    """A server with TLS and a password, and the certificate that a client trusts."""

    port: int
    certificate: Path


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [("Content-Length", "6")])
    return [environ["PATH_INFO"].ljust(6)[:6].encode()]


def certificate(folder: Path) -> Path:
    """One of its own for 127.0.0.1, the key in the same file."""
    pem = folder / "tls.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    words += ["-keyout", str(pem), "-out", str(folder / "only.pem"), "-days", "2", "-subj", "/CN=ward-3"]
    subprocess.run(
        [*words, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True, timeout=20
    )
    pem.write_text(pem.read_text() + (folder / "only.pem").read_text())
    return pem


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    pem = certificate(tmp_path_factory.mktemp("tls"))
    known = door.Passwords(passwords.parse(passwords.line(NAME, PASSWORD)))
    listener = socket.create_server(("127.0.0.1", 0))
    server = endpoint.serve(listener, door.ask(application, known), door.tls(str(pem)), shutdown_seconds=0.02)
    yield Place(listener.getsockname()[1], pem)
    server.shutdown()
    listener.close()


def ask(place: Place, path: str, headers: Mapping[str, str], method: str = "GET") -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=str(place.certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", place.port, timeout=20, context=context)
    connection.request(method, path, headers=dict(headers))
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_the_right_password_gets_in(place: Place) -> None:
    for _ in range(3):
        assert ask(place, "/metrics", basic(NAME, PASSWORD)) == (200, b"/metri")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic(NAME, "wrong horse 2323"),
        basic(NAME, ""),
        basic("somebody", PASSWORD),
        {"Authorization": "Basic"},
        {"Authorization": "Basic ====="},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()},
        {"Authorization": "Bearer " + base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()},
    ],
)
def test_nothing_else_does(place: Place, headers: Mapping[str, str]) -> None:
    assert ask(place, "/metrics", headers) == (401, door.BODY)
    assert ask(place, "/", headers, "HEAD") == (401, b"")
    assert ask(place, "/metrics", basic(NAME, PASSWORD))[0] == 200  # nor does it shut others out


def test_health_is_open(place: Place) -> None:
    assert ask(place, "/healthz", {})[0] == 200


def test_plain_http_gets_no_answer(place: Place) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=20)
    connection.request("GET", "/healthz")
    with pytest.raises((http.client.HTTPException, OSError)):
        connection.getresponse()
    connection.close()


def test_old_tls_is_refused(place: Place) -> None:
    assert door.tls(str(place.certificate)).minimum_version == ssl.TLSVersion.TLSv1_2


def test_one_that_never_shakes_hands_holds_up_nobody(place: Place) -> None:
    silent = [socket.create_connection(("127.0.0.1", place.port)) for _ in range(endpoint.CONNECTIONS - 1)]
    try:
        assert ask(place, "/healthz", {})[0] == 200
    finally:
        for connection in silent:
            connection.close()


def test_a_right_header_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape every second must not cost a scrypt each; a wrong one is remembered by nobody."""
    asked: list[str] = []
    fit = passwords.fit

    def counting(known: Mapping[str, passwords.Kept], name: str, password: str) -> bool:
        asked.append(password)
        return fit(known, name, password)

    monkeypatch.setattr(passwords, "fit", counting)
    known = door.Passwords(passwords.parse(passwords.line(NAME, PASSWORD)))
    right, wrong = (basic(NAME, word)["Authorization"] for word in (PASSWORD, "x" * 23))
    assert [known.admit(right) for _ in range(23)] == [True] * 23
    assert asked == [PASSWORD]
    assert not known.admit(wrong)
    assert not known.admit(wrong)
    assert asked == [PASSWORD, "x" * 23, "x" * 23]


def test_many_spellings_do_not_fill_the_memory() -> None:
    known = door.Passwords(passwords.parse(passwords.line(NAME, PASSWORD)))
    header = basic(NAME, PASSWORD)["Authorization"]
    assert all(known.admit(header + " " * spaces) for spaces in range(5))
    assert len(known._right) == 2


def test_guesses_wait_for_one_another() -> None:
    """Eight at once need the memory of one."""
    known = door.Passwords(passwords.parse(passwords.line(NAME, PASSWORD)))
    wrong = basic(NAME, "y" * 23)["Authorization"]
    answers: list[bool] = []
    with known._one_at_a_time:
        threads = [threading.Thread(target=lambda: answers.append(known.admit(wrong))) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert answers == []
    for thread in threads:
        thread.join()
    assert answers == [False] * 4
