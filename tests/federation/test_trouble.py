# SPDX-License-Identifier: Apache-2.0
"""Every trouble with a federation has its own code and a hint.

Against a real SuperLink where one can show it, else against a peer that answers as such a one would.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse
from flwr.proto.message_pb2 import Message, Metadata, ObjectTree
from flwr.proto.recorddict_pb2 import RecordDict
from flwr.supercore.date import now

from federation.peer import LOOPBACK, Seen, Server, answer
from homebound.demo.superlink import SuperLink, free_port, make_superlink
from homebound.gateway.federation import Federation, endpoint
from homebound.gateway.node import Session, own_key
from homebound.gateway.trouble import WORDS, FederationError, Trouble
from homebound.gateway.wire import Line
from homebound.settings import FederationSettings

Key = ec.EllipticCurvePrivateKey


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    link = make_superlink(tmp_path_factory.mktemp("superlink"))
    link.start()
    yield link
    link.stop()


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return own_key(tmp_path)


def federation(
    port: int,
    key: Key,
    link: SuperLink | None = None,
    *,
    wall: Callable[[], datetime] = now,
    name: str = LOOPBACK,
) -> Federation:
    """A session-to-be with whatever listens on a port; with TLS if ``link`` has a certificate to trust."""
    root = "" if link is None else str(link.root_certificates)
    settings = FederationSettings(address=f"{name}:{port}", insecure=link is None, root_certificates=root)
    line = Line(lambda *_: None)
    return Federation(
        settings, endpoint(settings, LOOPBACK, port), key, line, max_task_bytes=1 << 20, wall=wall
    )


def trouble(session: Federation, node: int = 0) -> FederationError:
    """What stands in the way of connecting."""
    with pytest.raises(FederationError) as caught:
        session.connect(node)
    session.leave(0.1)
    assert caught.value.hint == WORDS[caught.value.code][1]
    assert "\n" not in str(caught.value)
    return caught.value


def shifted(seconds: float) -> Callable[[], datetime]:
    return lambda: now() + timedelta(seconds=seconds)


def test_connects_and_leaves_and_comes_back(superlink: SuperLink, key: Key) -> None:
    first = federation(superlink.port, key, superlink)
    node = first.connect()
    assert node > 0
    first.leave(1.0)
    again = federation(superlink.port, key, superlink)
    assert again.connect() == node
    assert again.pull() is None
    again.leave(1.0)


@pytest.mark.parametrize(("seconds", "words"), [(30.0, "30 s ahead"), (-400.0, "400 s behind")])
def test_clock_that_differs(superlink: SuperLink, key: Key, seconds: float, words: str) -> None:
    error = trouble(federation(superlink.port, key, superlink, wall=shifted(seconds)))
    assert error.code is Trouble.CLOCK
    assert error.message.startswith("the device clock differs from the federation's")
    assert words[:-3] in error.message or abs(seconds) > 1


def test_clock_that_differs_a_little_is_no_trouble(superlink: SuperLink, key: Key) -> None:
    for seconds in (2.0, -200.0):
        session = federation(superlink.port, key, superlink, wall=shifted(seconds))
        assert session.connect() > 0
        session.leave(1.0)


def test_key_of_a_session_that_was_cut_off(superlink: SuperLink, key: Key) -> None:
    """Who knows the number goes on at once; who does not waits until the federation has let go."""
    lost = federation(superlink.port, key, superlink)
    node = lost.connect()
    assert trouble(federation(superlink.port, key, superlink)).code is Trouble.KEY_BUSY
    known = federation(superlink.port, key, superlink)
    assert known.connect(node) == node
    known.leave(1.0)
    lost.leave(1.0)


def test_number_that_the_federation_does_not_know(superlink: SuperLink, key: Key) -> None:
    session = federation(superlink.port, key, superlink)
    node = session.connect(12345)
    assert node not in (0, 12345)
    session.leave(1.0)


def test_certificate_of_a_stranger(superlink: SuperLink, key: Key, tmp_path: Path) -> None:
    stranger = make_superlink(tmp_path / "stranger")
    error = trouble(federation(superlink.port, key, stranger))
    assert error.code is Trouble.CERTIFICATE
    assert "unable to get local issuer certificate" in error.message
    wrong = federation(superlink.port, key, superlink, name="other.test")
    error = trouble(wrong)
    assert error.code is Trouble.CERTIFICATE
    assert "Hostname mismatch" in error.message


def test_tls_on_one_side_only(superlink: SuperLink, key: Key) -> None:
    error = trouble(federation(superlink.port, key))
    assert error.code in (Trouble.PROTOCOL, Trouble.GONE)
    plain = Server(lambda _: answer())
    assert trouble(federation(plain.port, key, superlink)).code in (Trouble.PROTOCOL, Trouble.GONE)
    plain.close()


def test_nobody_there(key: Key) -> None:
    error = trouble(federation(free_port(), key))
    assert error.code is Trouble.UNREACHABLE
    assert "econnrefused" in error.message


def test_nobody_answers(key: Key) -> None:
    """A full backlog: the connection is never made. The line's deadline stands for the half minute."""
    with socket.create_server((LOOPBACK, 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)):
            session = federation(port, key)
            session._line.deadline = session._line.clock() + 0.2
            assert trouble(session).code is Trouble.UNREACHABLE


REFUSED = """
from homebound.gateway.federation import Federation, endpoint
from homebound.gateway.node import own_key
from homebound.gateway.trouble import FederationError
from homebound.gateway.wire import Line
from homebound.settings import FederationSettings
from pathlib import Path
from pyroute2 import IPRoute
import sys
with IPRoute() as routes:
    routes.link("set", index=1, state="up")
    routes.route("add", dst="192.0.2.9/32", type=sys.argv[2])
settings = FederationSettings(address="superlink.test:9", insecure=True)
end = endpoint(settings, "192.0.2.9", 9)
try:
    Federation(settings, end, own_key(Path(sys.argv[1])), Line(print), max_task_bytes=1).connect()
except FederationError as error:
    print(error.code)
"""


@pytest.mark.root
@pytest.mark.parametrize(("route", "code"), [("prohibit", "wall"), ("unreachable", "unreachable")])
def test_connection_that_the_kernel_refuses(tmp_path: Path, route: str, code: str) -> None:
    """A prohibited route gives EACCES, as a wall gives EPERM; in a network namespace of its own."""
    words = ["unshare", "--net", sys.executable, "-c", REFUSED, str(tmp_path), route]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == code + "\n"


def flower_error(number: int, status: str) -> bytes:
    return answer(json.dumps({"code": number, "detail": "secret words of the peer"}).encode(), status)


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (flower_error(1001, "400 Bad Request"), Trouble.VERSION),
        (answer(headers="flwr-version-incompatibility-message: x\r\n"), Trouble.VERSION),
        (flower_error(2001, "412 Precondition Failed"), Trouble.KEY_UNKNOWN),
        (flower_error(2004, "412 Precondition Failed"), Trouble.SERVER_ERROR),
        (answer(status="404 Not Found"), Trouble.PROTOCOL),
        (answer(status="301 Moved Permanently", headers="location: /x\r\n"), Trouble.PROTOCOL),
        (answer(status="500 Internal Server Error"), Trouble.SERVER_ERROR),
        (answer(status="503 Service Unavailable"), Trouble.SERVER_ERROR),
        (answer(b"[1, 2]", "500 Internal Server Error"), Trouble.SERVER_ERROR),
        (answer(b"\xff\xff\xff\xff"), Trouble.PROTOCOL),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Trouble.PROTOCOL),
        (b"\0\0\x18\x04\0\0\0\0\0" + b"\0" * 24, Trouble.PROTOCOL),
        (answer(b"x" * (3 << 20)), Trouble.TOO_LARGE),
    ],
)
def test_peer_that_is_no_superlink_of_this_version(key: Key, reply: bytes, code: Trouble) -> None:
    """Another Flower, another service, a gRPC port (HTTP/2 settings frame), a flood."""
    server = Server(lambda _: reply)
    error = trouble(federation(server.port, key))
    assert error.code is code
    assert "secret words" not in str(error)
    assert [seen.path for seen in server.seen] == ["/v1/fleet/register-node"]
    server.close()


def test_peer_that_ends_in_the_middle(key: Key) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        session = federation(port, key)

        thread = threading.Thread(target=lambda: listener.accept()[0].close())
        thread.start()
        assert trouble(session).code is Trouble.GONE
        thread.join()


@pytest.mark.parametrize(
    ("name", "good"),
    [("0" * 64, True), ("", False), ("../x", False), ("A" * 64, False), ("0" * 70_000, False)],
)
def test_name_of_a_message_must_be_a_digest(key: Key, name: str, good: bool) -> None:
    metadata = Metadata(run_id=1, message_id=name, src_node_id=1, dst_node_id=7, message_type="train", ttl=9)
    pulled = PullMessagesResponse(
        messages_list=[Message(metadata=metadata, content=RecordDict())],
        message_object_trees=[ObjectTree(object_id=name)],
    )
    activated = ActivateNodeResponse(node_id=7).SerializeToString()
    bodies = {"activate-node": activated, "pull-messages": pulled.SerializeToString()}

    server = Server(lambda seen: answer(bodies.get(seen.path.rpartition("/")[2], b"")))
    session = federation(server.port, key)
    session.connect()
    if good:
        given = session.pull()
        assert given is not None
        assert (given.task, given.run, given.node, given.message_type) == (name, 1, 7, "train")
    else:
        with pytest.raises(FederationError) as caught:
            session.pull()
        assert caught.value.code is Trouble.MALFORMED
    session.leave(1.0)
    server.close()


def test_same_headers_for_every_device(key: Key) -> None:
    """Fixed words, no cookies, no packing; what differs is key, time and signature."""

    def respond(seen: Seen) -> bytes:
        body = ActivateNodeResponse(node_id=7).SerializeToString() if "activate" in seen.path else b""
        return answer(body, headers="set-cookie: a=b\r\n")

    server = Server(respond)
    session = federation(server.port, key)
    assert session.connect() == 7
    session.leave(1.0)
    assert [seen.path.rpartition("/")[2] for seen in server.seen] == [
        "register-node",
        "activate-node",
        "deactivate-node",
    ]
    for seen in server.seen:
        assert set(seen.headers) == {
            "host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length",
            "flwr-package-name", "flwr-package-version", "flwr-component-name",
            "flwr-public-key", "flwr-timestamp", "flwr-signature",
        }  # fmt: skip
        assert seen.headers["user-agent"] == "homebound"
        assert seen.headers["accept-encoding"] == "identity"
    server.close()


def test_session_counts_within_one_boot_and_for_one_federation(tmp_path: Path) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("one\n")
    Session(tmp_path, "a:1", boot).keep(2**64 - 1)
    assert Session(tmp_path, "a:1", boot).node() == 2**64 - 1
    assert Session(tmp_path, "b:1", boot).node() == 0
    assert Session(tmp_path, "a:1", tmp_path / "missing").node() == 0
    boot.write_text("two\n")
    assert Session(tmp_path, "a:1", boot).node() == 0
    (tmp_path / "session.json").write_text("[]")
    assert Session(tmp_path, "a:1", boot).node() == 0


def test_own_key_stays_and_is_private(tmp_path: Path) -> None:
    first, second = own_key(tmp_path), own_key(tmp_path)
    assert first.private_numbers() == second.private_numbers()
    assert (tmp_path / "node.pem").stat().st_mode & 0o777 == 0o600
