# SPDX-License-Identifier: Apache-2.0
"""The wire: one endpoint, and every TCP byte announced before it leaves, exactly, with TLS and without."""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpcore
import httpx
import pytest

from federation.peer import LOOPBACK, Relay, Seen, Server, answer
from homebound.demo.certificate import Certificate, make_certificate
from homebound.gateway.wire import (
    PURPOSE,
    Backend,
    Endpoint,
    Interrupted,
    Line,
    Purpose,
    ResponseTooLarge,
    Transport,
)

SIZES = (0, 1, 1448, 16384, 16385, 262143, 262144, 262145, 1_000_003)


class Accounts:
    """Adds up what was announced, as the supervisor does."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, str]] = []
        self.total = 0

    def declare(self, kind: str, count: int, task: str) -> None:
        self.total += count
        self.lines.append((kind, count, task))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"), [LOOPBACK, "superlink.test"])


def server_context(certificate: Certificate, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    context.minimum_version = context.maximum_version = version
    return context


def client_context(root: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(root)
    return context


def client(end: Endpoint, line: Line, limit: int = 1 << 24) -> httpx.Client:
    return httpx.Client(transport=Transport(end, line, limit), trust_env=False, timeout=10)


def post(
    http: httpx.Client, end: Endpoint, body: bytes, kind: str = "push", task: str = "t"
) -> httpx.Response:
    scheme = "http" if end.context is None else "https"
    request = http.build_request("POST", f"{scheme}://{end.name}:{end.port}/x", content=body)
    request.extensions[PURPOSE] = Purpose(kind, task)
    return http.send(request)


def sent_once(sock: socket.socket) -> int:
    """TCP payload bytes without those sent again: tcpi_bytes_sent - tcpi_bytes_retrans of linux/tcp.h."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
    sent, again = struct.unpack_from("<QQ", info, 200)
    return int(sent - again)


@pytest.fixture(params=["plain", "tls1.2", "tls1.3"])
def link(
    request: pytest.FixtureRequest, certificate: Certificate
) -> Iterator[tuple[Endpoint, Server, Relay, Accounts, Line]]:
    """A server behind a counting relay, the endpoint that leads there, and the accounts."""
    version = {"tls1.2": ssl.TLSVersion.TLSv1_2, "tls1.3": ssl.TLSVersion.TLSv1_3}.get(request.param)
    server = Server(
        lambda seen: answer(seen.body[:1000]), server_context(certificate, version) if version else None
    )
    accounts = Accounts()
    late: list[int] = []
    relay = Relay(server.port, lambda _: late.append(1) if relay.total > accounts.total else None)
    relay.open()
    end = Endpoint(LOOPBACK, relay.port, LOOPBACK, client_context(certificate.root) if version else None)
    yield end, server, relay, accounts, Line(accounts.declare)
    relay.cut()
    server.close()
    assert not late, "bytes arrived before they were announced"


def test_announced_bytes_are_the_bytes_on_the_wire(
    link: tuple[Endpoint, Server, Relay, Accounts, Line],
) -> None:
    end, server, relay, accounts, line = link
    with client(end, line) as http:
        for number, size in enumerate(SIZES):
            response = post(http, end, b"\xa5" * size, "push_object", f"task-{number}")
            assert response.content == b"\xa5" * min(size, 1000)
            assert accounts.total == relay.total
    assert [len(seen.body) for seen in server.seen] == list(SIZES)
    assert relay.connections == 1
    assert {kind for kind, _, _ in accounts.lines} == {"push_object"}
    assert {task for _, _, task in accounts.lines} == {f"task-{number}" for number in range(len(SIZES))}
    print(f"announced {accounts.total} relayed {relay.total} in {len(accounts.lines)} announcements")


def test_announced_bytes_are_what_the_kernel_counted(
    link: tuple[Endpoint, Server, Relay, Accounts, Line],
) -> None:
    end, _, relay, accounts, line = link
    line.purpose = Purpose("push")
    pool = httpcore.ConnectionPool(
        ssl_context=end.context, network_backend=Backend(end, line), max_connections=1
    )
    scheme = "http" if end.context is None else "https"
    with pool:
        for size in SIZES:
            with pool.stream("POST", f"{scheme}://{end.name}:{end.port}/", content=b"x" * size) as response:
                response.read()
                sock = response.extensions["network_stream"].get_extra_info("socket")
                assert accounts.total == sent_once(sock)
    assert accounts.total == relay.total


def test_one_small_request_is_one_announcement(link: tuple[Endpoint, Server, Relay, Accounts, Line]) -> None:
    end, _, _, accounts, line = link
    with client(end, line) as http:
        post(http, end, b"first")
        before = len(accounts.lines)
        post(http, end, b"second", "heartbeat", "")
    assert [(kind, task) for kind, _, task in accounts.lines[before:]] == [("heartbeat", "")]


def test_slow_reader_changes_nothing() -> None:
    """The peer reads in small steps, so that the kernel takes the bytes in parts."""
    listener = socket.create_server((LOOPBACK, 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    received = []

    def read_slowly() -> None:
        sock, _ = listener.accept()
        with sock:
            tail = b""
            while not tail.endswith(b"END"):
                data = sock.recv(10_000)
                received.append(len(data))
                tail = (tail + data)[-3:]
                time.sleep(0.0002)
            sock.sendall(answer())

    thread = threading.Thread(target=read_slowly)
    thread.start()
    accounts = Accounts()
    end = Endpoint(LOOPBACK, listener.getsockname()[1], LOOPBACK, None)
    with client(end, Line(accounts.declare)) as http:
        post(http, end, b"x" * 4_000_000 + b"END")
    thread.join()
    listener.close()
    assert accounts.total == sum(received)


def test_broken_connection_takes_back_what_never_left(
    link: tuple[Endpoint, Server, Relay, Accounts, Line],
) -> None:
    """The peer stops reading, the supervisor interrupts: announced less taken back is what the peer got."""
    end, _, relay, accounts, line = link
    waking, line.wake = socket.socketpair()
    go_on = threading.Event()

    def stall(_: int) -> None:
        if relay.total > 100_000 and not go_on.is_set():
            time.sleep(0.3)
            waking.send(b"stop")
            go_on.wait(10)

    relay.count = stall
    with client(end, line) as http, pytest.raises(Interrupted):
        post(http, end, b"x" * (64 << 20))
    go_on.set()
    deadline = time.monotonic() + 5
    while relay.total != accounts.total and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    taken_back = [(kind, count) for kind, count, _ in accounts.lines if count < 0]
    assert [kind for kind, _ in taken_back] == ["unsent"]
    assert accounts.total == relay.total
    print(f"announced {accounts.total - taken_back[0][1]}, back {-taken_back[0][1]}, arrived {relay.total}")
    waking.close()
    line.wake.close()


def test_nothing_is_sent_without_a_purpose() -> None:
    server = Server(lambda _: answer())
    end = Endpoint(LOOPBACK, server.port, LOOPBACK, None)
    with client(end, Line(Accounts().declare)) as http:
        with pytest.raises(KeyError):
            http.post(f"http://{LOOPBACK}:{server.port}/", content=b"secret")
        assert server.seen == []
        assert post(http, end, b"ok").status_code == 200
    server.close()


def test_only_the_endpoint_is_dialled() -> None:
    other = Server(lambda _: answer())
    server = Server(lambda _: answer())
    end = Endpoint(LOOPBACK, server.port, LOOPBACK, None)
    with client(end, Line(Accounts().declare)) as http:
        for name, port in ((LOOPBACK, other.port), ("localhost", server.port), ("example.org", 80)):
            with pytest.raises(httpcore.ConnectError, match="not the endpoint"):
                post(http, Endpoint(LOOPBACK, port, name, None), b"x")
        assert post(http, end, b"x").status_code == 200
    assert (len(other.seen), len(server.seen)) == (0, 1)
    for peer in (other, server):
        peer.close()


def test_certificate_must_be_for_the_configured_name(certificate: Certificate, tmp_path: Path) -> None:
    server = Server(lambda _: answer(), server_context(certificate, ssl.TLSVersion.TLSv1_3))
    stranger = make_certificate(tmp_path / "stranger", [LOOPBACK])
    for name, root, good in (
        ("superlink.test", certificate.root, True),
        ("other.test", certificate.root, False),
        ("superlink.test", stranger.root, False),
    ):
        end = Endpoint(LOOPBACK, server.port, name, client_context(root))
        with client(end, Line(Accounts().declare)) as http:
            if good:
                assert post(http, end, b"x").status_code == 200
            else:
                with pytest.raises(httpcore.ConnectError) as caught:
                    post(http, end, b"x")
                assert isinstance(caught.value.__context__, ssl.SSLCertVerificationError)
    assert len(server.seen) == 1
    server.close()


def test_response_is_bounded() -> None:
    server = Server(lambda seen: answer(b"y" * int(seen.body)))
    end = Endpoint(LOOPBACK, server.port, LOOPBACK, None)
    with client(end, Line(Accounts().declare), limit=1000) as http:
        assert len(post(http, end, b"1000").content) == 1000
        with pytest.raises(ResponseTooLarge):
            post(http, end, b"1001")
    server.close()


def test_headers_of_the_peer_do_nothing() -> None:
    """No cookie comes back, nothing is unpacked, no redirect is followed."""
    packed = gzip.compress(b"hello")
    extra = "Set-Cookie: a=1\r\nContent-Encoding: gzip\r\nLocation: /elsewhere\r\nDate: x\r\n"

    def respond(seen: Seen) -> bytes:
        return answer(packed, "302 Found" if seen.body == b"redirect" else "200 OK", extra)

    server = Server(respond)
    end = Endpoint(LOOPBACK, server.port, LOOPBACK, None)
    with client(end, Line(Accounts().declare)) as http:
        response = post(http, end, b"x")
        assert response.content == packed
        assert "set-cookie" not in response.headers
        assert response.headers["date"] == "x"
        assert post(http, end, b"redirect").status_code == 302
    assert [seen.path for seen in server.seen] == ["/x", "/x"]
    assert all("cookie" not in seen.headers for seen in server.seen)
    server.close()


def test_stale_connection_is_replaced() -> None:
    """A server that closes an idle connection costs a new one, no failure, and the sums still agree."""
    server = Server(lambda _: answer())
    accounts = Accounts()
    relay = Relay(server.port)
    relay.open()
    end = Endpoint(LOOPBACK, relay.port, LOOPBACK, None)
    with client(end, Line(accounts.declare)) as http:
        post(http, end, b"one")
        relay.cut()
        relay.open()
        time.sleep(0.05)
        post(http, end, b"two")
    assert relay.connections == 2
    assert accounts.total == relay.total
    assert all(count > 0 for _, count, _ in accounts.lines)
    relay.cut()
    server.close()


def test_deadline_ends_all_waiting() -> None:
    listener = socket.create_server((LOOPBACK, 0))
    end = Endpoint(LOOPBACK, listener.getsockname()[1], LOOPBACK, None)
    clock = [0.0]
    line = Line(Accounts().declare, clock=lambda: clock[0], deadline=0.05)
    with client(end, line) as http, pytest.raises(httpcore.ReadTimeout):
        post(http, end, b"x")
    listener.close()
