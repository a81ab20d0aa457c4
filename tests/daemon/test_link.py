# SPDX-License-Identifier: Apache-2.0
"""The way to the federation: nobody there, gone and back, another version, IPv6, a name. Nothing is lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from daemon.federation import Federation
from daemon.rig import Daemon, Document, after, until
from federation.peer import LOOPBACK, Relay, Seen, Server, answer
from homebound.demo.superlink import free_port

pytestmark = [
    pytest.mark.root,
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]


@dataclass
class Relay6(Relay):
    """A relay that listens on IPv6's loopback."""

    def open(self) -> None:
        self._listener = socket.create_server(("::1", self.port), family=socket.AF_INET6)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()


@pytest.fixture
def relay(federation: Federation) -> Iterator[Relay]:
    """Before the SuperLink; open, and to be cut by a test."""
    one = Relay(federation.link.port)
    one.open()
    yield one
    one.cut()


def connected(status: Document) -> bool:
    return bool(status["federation"]["connected"])


def away(status: Document) -> bool:
    return not connected(status) and status["federation"]["reason"] != ""


def test_nobody_there_and_then_somebody(daemon: Daemon, federation: Federation) -> None:
    """A reason and what to do, said once; tried again by itself until it goes."""
    relay = Relay(federation.link.port, port=free_port())
    daemon.config["federation"]["address"] = f"{LOOPBACK}:{relay.port}"
    daemon.start()
    status = daemon.wait("the reason", away)
    assert status["federation"]["reason"] == "unreachable"
    assert "check federation.address" in status["federation"]["hint"]
    assert status["roles"]["gateway"]["denied"] == 0
    assert daemon.metrics()["homebound_federation_connected"] == 0
    shown = daemon.command("status")
    assert shown.returncode == 0, shown.stderr
    assert "unreachable" in shown.stdout
    relay.open()
    daemon.wait("connected", connected)
    assert federation.ask(daemon.node)["outcome"] == "update"
    assert daemon.lines().count("homebound: the federation is away: unreachable") == 1
    assert daemon.stop().status == 0
    relay.cut()


def cut_in_mid_round(daemon: Daemon, federation: Federation, relay: Relay) -> str:
    """Start the device, and take its way to the federation away while it trains; what to ask the reply by."""
    daemon.config["federation"]["address"] = f"{LOOPBACK}:{relay.port}"
    daemon.start()
    daemon.wait_ready()
    order = federation.send(daemon.node, "hangs", 1.0)
    daemon.wait("training", lambda s: s["state"] == "training")
    relay.cut()
    return order


def test_gone_in_mid_round_and_back(daemon: Daemon, federation: Federation, relay: Relay) -> None:
    """The update waits in the outbox, and is sent by itself."""
    order = cut_in_mid_round(daemon, federation, relay)
    status = daemon.wait("released", lambda s: s["released"]["updates"] == 1 and away(s))
    assert status["federation"]["reason"] in ("gone", "unreachable")
    until("the update in the outbox", lambda: [name[-6:] for name in daemon.outbox] == [".reply"])
    relay.open()
    assert federation.reply(order)["outcome"] == "update"
    until("the outbox empty", lambda: daemon.outbox == [])
    status = daemon.wait("at rest", lambda s: s["rounds_completed"] == 1)
    assert status["unaccounted_bytes"] == 0
    assert [entry.kind for entry in daemon.entries()] == ["release"]
    assert daemon.stop().status == 0


def test_update_outlives_the_daemon(daemon: Daemon, federation: Federation, relay: Relay) -> None:
    """Released while the federation was away, then the daemon is killed: the next one sends it."""
    order = cut_in_mid_round(daemon, federation, relay)
    until("the update in the outbox", lambda: [name[-6:] for name in daemon.outbox] == [".reply"])
    daemon.kill()
    relay.open()
    daemon.start()
    assert federation.reply(order)["outcome"] == "update"
    assert [entry.kind for entry in daemon.entries()] == ["release"]
    status = daemon.wait("acknowledged", lambda s: s["rounds_completed"] == 1)
    assert (status["unaccounted_bytes"], status["violations"]) == (0, [])
    assert daemon.stop().status == 0


def test_other_version_of_flower(daemon: Daemon) -> None:
    def refuse(seen: Seen) -> bytes:
        assert seen.headers["flwr-package-version"].startswith("1.42.")
        return answer(status="400 Bad Request", headers="flwr-version-incompatibility-message: 1.43\r\n")

    server = Server(refuse)
    daemon.config["federation"] |= {
        "address": f"{LOOPBACK}:{server.port}", "insecure": True, "root_certificates": "",
    }  # fmt: skip
    daemon.start()
    status = daemon.wait("the reason", away)
    assert status["federation"]["reason"] == "version"
    assert "Flower" in status["federation"]["hint"]
    until("a second try", lambda: len(server.seen) >= 2)
    assert set(daemon.lines()) >= {"homebound: the federation is away: version"}
    assert daemon.stop().status == 0
    server.close()
    assert {seen.path for seen in server.seen} == {"/v1/fleet/register-node"}


def test_ipv6(daemon: Daemon, federation: Federation) -> None:
    relay = Relay6(federation.link.port)
    relay.open()
    daemon.config["federation"]["address"] = f"[::1]:{relay.port}"
    daemon.start()
    daemon.wait_ready()
    assert federation.ask(daemon.node)["outcome"] == "update"
    status = daemon.wait("at rest", lambda s: s["rounds_completed"] == 1)
    assert status["unaccounted_bytes"] == 0
    assert status["declared_stream_bytes"] <= relay.total
    assert daemon.stop().status == 0
    relay.cut()


def test_name(daemon: Daemon, federation: Federation) -> None:
    """The certificate is for the name; the supervisor finds the address, as on a fresh Debian."""
    hosts = daemon.folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
    daemon.config["federation"]["address"] = f"localhost:{federation.link.port}"
    daemon.start(before=after(f"mount --bind {hosts} /etc/hosts"))
    daemon.wait_ready()
    assert federation.ask(daemon.node)["outcome"] == "update"
    assert daemon.stop().status == 0


def test_name_with_several_addresses(daemon: Daemon, federation: Federation) -> None:
    """Where the first does not answer the next is tried, and none but one is ever open."""
    hosts = daemon.folder / "hosts"
    hosts.write_text("127.0.0.9 localhost\n127.0.0.8 localhost\n127.0.0.1 localhost\n::1 localhost\n")
    daemon.config["federation"]["address"] = f"localhost:{federation.link.port}"
    daemon.start(before=after(f"mount --bind {hosts} /etc/hosts"))
    daemon.wait_ready()
    assert federation.ask(daemon.node)["outcome"] == "update"
    status = daemon.wait("at rest", lambda s: s["rounds_completed"] == 1)
    assert (status["unaccounted_bytes"], status["violations"]) == (0, [])
    assert status["roles"]["gateway"]["denied"] == 0
    assert daemon.stop().status == 0


def test_name_that_nobody_knows(daemon: Daemon) -> None:
    daemon.config["federation"]["address"] = "superlink.invalid:8000"
    daemon.start()
    status = daemon.wait("the reason", away)
    assert status["federation"]["reason"] == "name_not_resolved"
    assert "DNS" in status["federation"]["hint"]
    assert "homebound: the federation is away: name_not_resolved" in daemon.lines()
    ended = daemon.stop()
    assert ended.status == 0
    print(f"ended after {ended.seconds:.2f} s")
