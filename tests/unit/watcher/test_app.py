# SPDX-License-Identifier: Apache-2.0
"""app.py's main loop with counters in memory and a real control link: what it tells, does and counts.

The process with real maps is in tests/kernel/test_watcher.py.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from homebound import control
from homebound.errors import InternalError
from homebound.events import Kind, Role, Rule, Verdict
from homebound.kernel.usage import OpenFiles
from homebound.watcher import app
from homebound.watcher.policy import Mode
from unit.watcher.rig import MemoryCounters, MemoryStream, event, tx

# The loop's seconds pass this much faster than ours.
FASTER = 10.0


@dataclass
class Rig:
    """A watcher in a thread, the supervisor's end of its link, and the trainer's cgroup files."""

    link: socket.socket
    counters: MemoryCounters
    stream: MemoryStream
    registry: CollectorRegistry
    trainer: Path
    thread: threading.Thread
    ended: list[BaseException | None]
    asked: list[None]

    def report(self, **report: Any) -> None:
        control.send(self.link, {"type": "report", "report": report})

    def hear(self, kind: str, wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """The next message of that kind that is wanted; others are passed over."""
        while True:
            message, _ = control.receive(self.link)
            if message["type"] == kind and wanted(message):
                return message

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def becomes(self, expected: float, name: str, **labels: str) -> None:
        """Wait until a metric has a value."""
        for _ in range(1000):
            if self.value(name, **labels) == expected:
                return
            time.sleep(0.01)
        raise AssertionError(f"{name} {labels} is {self.value(name, **labels)}, not {expected}")

    def wrote(self, name: str) -> bool:
        return (self.trainer / name).read_text() == "1"

    def end(self) -> BaseException | None:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.ended[0]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []
    opened: list[int] = []

    def make(mode: Mode = "enforce", counters: MemoryCounters | None = None) -> Rig:
        trainer = tmp_path / f"trainer{len(rigs)}"
        trainer.mkdir()
        fds = {}
        for name in ("cgroup.freeze", "cgroup.kill"):
            (trainer / name).write_text("")
            fds[name] = os.open(trainer / name, os.O_WRONLY)
        opened.extend(fds.values())
        ours, theirs = control.pair()
        ours.settimeout(10)
        counters, stream, registry = counters or MemoryCounters(), MemoryStream(), CollectorRegistry()
        handed = app.Handed("default", mode, {}, 0, features={"btf": True, "lsm": False})
        asked: list[None] = []
        made = app.Watcher(
            handed, theirs, counters, stream, {"trainer": OpenFiles(fds)}, registry,
            clock=lambda: time.monotonic() * FASTER, ask_for_event=lambda: asked.append(None),
        )  # fmt: skip
        ended: list[BaseException | None] = []

        def run() -> None:
            try:
                made.run(stream.fd)
                ended.append(None)
            except (OSError, control.ControlClosed) as error:
                ended.append(error)
            finally:
                theirs.close()

        thread = threading.Thread(target=run)
        rig = Rig(ours, counters, stream, registry, trainer, thread, ended, asked)
        rigs.append(rig)
        thread.start()
        rig.hear("beat")
        return rig

    try:
        yield make
    finally:
        for rig in rigs:
            rig.link.close()
            rig.thread.join(20)
            os.close(rig.stream.fd)
        for fd in opened:
            os.close(fd)


def test_it_beats(start: Callable[..., Rig]) -> None:
    rig = start()
    first, second = rig.hear("beat")["time"], rig.hear("beat")["time"]
    assert second - first >= app.BEAT_SECONDS


def test_23_refused_attempts_are_23_violations(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.counters.deny(Role.TRAINER, Rule.IO_URING, 23)
    rig.stream.put(*[event() for _ in range(23)])
    told = rig.hear("denied")
    verdict = rig.hear("verdict")
    assert (len(told["events"]), told["all"]) == (23, 23)
    assert told["events"][0]["rule"] == "io_uring"
    assert {key: verdict[key] for key in ("action", "role", "rule", "new", "count", "enforced")} == {
        "action": "deny", "role": "trainer", "rule": "io_uring", "new": 23, "count": 23, "enforced": True,
    }  # fmt: skip
    assert rig.value("homebound_violations_total", role="trainer", rule="io_uring") == 23
    assert rig.value("homebound_denied_total", rule="io_uring") == 23
    assert rig.value("homebound_events_total", kind="denied") == 23
    rig.counters.deny(Role.TRAINER, Rule.IO_URING, 2)
    verdict = rig.hear("verdict")
    assert (verdict["new"], verdict["count"]) == (2, 25)
    assert not rig.wrote("cgroup.freeze")


def test_the_canary_may_try(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.counters.deny(Role.CANARY, Rule.CONNECT4, 23)
    rig.counters.deny(Role.TRAINER, Rule.CONNECT6, 1)  # the control: this one is heard
    assert rig.hear("verdict")["rule"] == "connect6"
    assert rig.value("homebound_violations_total", role="trainer", rule="connect") == 1
    assert rig.value("homebound_denied_total", rule="connect") == 24


def test_a_byte_of_the_trainer_ends_it(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.counters.add(tx(Role.TRAINER), 61)
    verdict = rig.hear("verdict")
    assert (verdict["action"], verdict["rule"], verdict["count"]) == ("kill", "transmit", 61)
    assert rig.wrote("cgroup.freeze")
    assert rig.wrote("cgroup.kill")
    assert rig.value("homebound_violations_total", role="trainer", rule="transmit") == 1
    assert rig.value("homebound_transmit_bytes_total", role="trainer") == 61


def test_in_observe_mode_nothing_is_stopped(start: Callable[..., Rig]) -> None:
    rig = start("observe")
    rig.counters.add(tx(Role.TRAINER, Verdict.DENIED), 61)
    verdict = rig.hear("verdict")
    assert (verdict["action"], verdict["enforced"]) == ("kill", False)
    assert not rig.wrote("cgroup.freeze")
    assert rig.value("homebound_enforce") == 0


def test_a_canary_that_got_out_ends_the_trainer(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.report(type="canary", time=1700000000.0, out=0, tried=14)
    rig.becomes(1700000000.0, "homebound_canary_timestamp_seconds")
    assert not rig.wrote("cgroup.freeze")
    rig.report(type="canary", time=1700000300.0, out=2, tried=14)
    assert rig.hear("verdict")["rule"] == "canary"
    assert rig.wrote("cgroup.kill")
    assert rig.value("homebound_canary_timestamp_seconds") == 1700000000.0


def test_undeclared_bytes_become_a_violation(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.report(type="declare", request="pull", stream_bytes=100, task="")
    rig.counters.add(tx(Role.GATEWAY), 200, 123)
    verdict = rig.hear("verdict")
    assert (verdict["rule"], verdict["role"], verdict["count"]) == ("unaccounted", "gateway", 23)
    assert rig.value("homebound_transmit_unaccounted_bytes_total") == 23
    assert not rig.wrote("cgroup.freeze")


def test_an_answer_comes_behind_what_was_declared(start: Callable[..., Rig]) -> None:
    """Bytes whose declaration is on its way when they are counted are asked about, and then explained."""
    rig = start()
    rig.counters.add(tx(Role.GATEWAY), 200, 123)
    first = rig.hear("question")["number"]
    rig.report(type="declare", request="pull", stream_bytes=100, task="")
    control.send(rig.link, {"type": "answer", "number": first})
    second = rig.hear("question")["number"]  # 23 are left
    assert second > first
    assert rig.hear("verdict")["count"] == 23


def test_a_connection_to_somewhere_else_is_a_violation(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.report(type="sockets", known=True, connected=1, other=0, new_unknown=0)
    rig.becomes(1, "homebound_gateway_connections")
    rig.report(type="sockets", known=True, connected=2, other=1, new_unknown=2)
    verdict = rig.hear("verdict")
    assert (verdict["rule"], verdict["role"], verdict["count"]) == ("destination", "gateway", 2)
    assert rig.value("homebound_violations_total", role="gateway", rule="destination") == 2
    assert not rig.wrote("cgroup.freeze")


def test_a_lost_link_ends_the_trainer(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.link.close()
    assert isinstance(rig.end(), control.ControlClosed)
    assert rig.wrote("cgroup.freeze")
    assert rig.wrote("cgroup.kill")


def test_a_supervisor_that_does_not_read_is_a_lost_link(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.stream.put(*[event() for _ in range(256)])
    for _ in range(200):  # more than any send buffer holds
        control.send(rig.link, {"type": "recent"})
    assert isinstance(rig.end(), control.ControlClosed)
    assert rig.wrote("cgroup.freeze")


def test_blindness_freezes_the_trainer(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.counters.broken = True
    error = rig.end()
    assert isinstance(error, OSError)
    assert rig.wrote("cgroup.freeze")


def test_stop_ends_it_and_touches_nothing(start: Callable[..., Rig]) -> None:
    rig = start()
    control.send(rig.link, {"type": "stop"})
    assert rig.end() is None
    assert not rig.wrote("cgroup.freeze")


def test_the_way_of_events_is_proved_by_one_that_was_asked_for(start: Callable[..., Rig]) -> None:
    rig = start()
    asked = rig.asked
    for _ in range(500):
        if asked:
            break
        time.sleep(0.01)
    assert asked, "nobody asked"
    late = rig.value("homebound_event_path_age_seconds")
    assert late is not None
    rig.stream.put(replace(event(time_ns=int(time.monotonic() * FASTER * 1e9)), kind=Kind.CANARY, rule=None))
    rig.becomes(1, "homebound_events_total", kind="canary")
    age = rig.value("homebound_event_path_age_seconds")
    assert age is not None
    time.sleep(0.2)
    older = rig.value("homebound_event_path_age_seconds")
    assert older is not None
    assert older > age, "it grows until the next one comes"
    assert rig.value("homebound_violations_total", role="watcher", rule="sandbox") == 0


def test_recent_events_come_in_parts_that_fit(start: Callable[..., Rig]) -> None:
    rig = start()
    control.send(rig.link, {"type": "recent"})
    assert rig.hear("recent") == {"type": "recent", "events": [], "last": True}
    rig.stream.put(*[event(time_ns=i) for i in range(300)])
    assert rig.hear("denied")["all"] == 300
    control.send(rig.link, {"type": "recent"})
    parts = [rig.hear("recent")]
    while not parts[-1]["last"]:
        parts.append(rig.hear("recent"))
    assert sum(len(part["events"]) for part in parts) == app.RECENT
    assert max(len(json.dumps(part)) for part in parts) < 60_000


def test_a_round_in_metrics(start: Callable[..., Rig]) -> None:
    rig = start()
    rig.report(type="role_up", role="gateway")
    rig.report(type="connected", node=5)
    rig.report(type="started", task="t", round=1, kind="train")
    rig.report(type="released", task="t", round=1, kind="train", payload_bytes=5000)
    rig.report(type="acknowledged", task="t")
    rig.report(type="refused", task="u", round=2, code="timeout")
    rig.report(type="refused", task="v", round=2, code="word_of_an_app")
    rig.report(type="declare", request="poll", stream_bytes=-1, task="")
    rig.becomes(1, "homebound_reports_malformed_total")
    assert rig.value("homebound_updates_total") == 3
    assert rig.value("homebound_updates_rejected_total", reason="timeout") == 1
    assert rig.value("homebound_updates_rejected_total", reason="malformed") == 1
    assert rig.value("homebound_updates_rejected_total", reason="word_of_an_app") is None
    assert rig.value("homebound_update_bytes_sum") == 5000
    assert rig.value("homebound_round_seconds_count") == 1
    assert (rig.value("homebound_round_last_success_timestamp_seconds") or 0) > 1_600_000_000
    assert rig.value("homebound_federation_connected") == 1
    assert rig.value("homebound_role_up", role="gateway") == 1
    assert rig.value("homebound_role_restarts_total", role="gateway") == 0
    rig.report(type="role_down", role="gateway")
    rig.report(type="role_up", role="gateway")
    rig.becomes(1, "homebound_role_restarts_total", role="gateway")
    assert rig.value("homebound_federation_connected") == 0


def test_the_supervisors_words_in_metrics(start: Callable[..., Rig]) -> None:
    rig = start()
    assert rig.value("homebound_kernel_feature", feature="btf") == 1
    assert rig.value("homebound_kernel_feature", feature="lsm") == 0
    assert rig.value("homebound_bpf_program_attached", program="hb_syscall_exit", need="required") is None
    rig.report(
        type="programs",
        programs=[{"name": "hb_syscall_exit", "attached": True, "runs": 5, "run_seconds": 0.1}],
    )
    rig.report(type="walls", walls={"seccomp": True, "landlock": False, "made_up": True})
    used = {"cpu_seconds": 2.5, "memory_bytes": 4096, "source": {"cpu": "psutil", "memory": "psutil"}}
    rig.report(type="usage", roles={"trainer": used})
    rig.becomes(2.5, "homebound_cpu_seconds_total", role="trainer")
    assert rig.value("homebound_bpf_program_attached", program="hb_syscall_exit", need="required") == 1
    assert rig.value("homebound_wall_active", wall="seccomp") == 1
    assert rig.value("homebound_wall_active", wall="landlock") == 0
    assert rig.value("homebound_memory_bytes", role="trainer") == 4096


def test_a_new_watcher_takes_over_the_accounts(start: Callable[..., Rig]) -> None:
    counters = MemoryCounters()
    counters.add(tx(Role.GATEWAY), 1000, 900)
    rig = start(counters=counters)
    rig.report(
        type="accounts", baseline=0, declared_bytes=900, forgotten_surplus_bytes=0, released=4,
        released_bytes=0, acknowledged=0, malformed=0, tasks=[], refused={},
        roles={"guard": {"up": True, "starts": 1}}, federation={"connected": True},
    )  # fmt: skip
    rig.becomes(1, "homebound_role_up", role="guard")
    assert rig.value("homebound_updates_total") == 0
    rig.counters.add(tx(Role.GATEWAY), 100, 23)
    assert rig.hear("verdict")["count"] == 23


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 1}'])
def test_malformed_settings_are_an_error_of_ours(text: str) -> None:
    with pytest.raises(InternalError, match="settings are malformed"):
        app.parse(text)


def test_settings_of_others_are_passed_over() -> None:
    document = {
        "name": "a",
        "mode": "observe",
        "maps": {"events": 7},
        "listen_fd": 8,
        "fds": {},
        "cgroups": {},
    }
    assert app.parse(json.dumps(document)).maps == {"events": 7}
