# SPDX-License-Identifier: Apache-2.0
"""The verdict on a channel: blocked needs an errno, a silent receiver and a control that passed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from homebound.events import Rule
from homebound.leaktest import attempts, file_outside, foreign_fd, icmp, io_uring, packet, tcp, udp, vsock
from homebound.leaktest.attempts import CHANNELS, Channel
from homebound.leaktest.judge import (
    Control,
    Denial,
    Evidence,
    Facts,
    Outcome,
    Result,
    judge,
    read_lines,
    rules_met,
    wall_of,
    walls_tried,
)
from homebound.leaktest.run import Report, select_channels, verdict

PASSED = Control(passed=True, reason="sent")
FAILED = Control(passed=False, reason="no such family (EAFNOSUPPORT)")
SEALED = Facts(seccomp=2, socket_refused=True, landlock=True, capabilities=0, uid=60604)
UNFILTERED = Facts(seccomp=0, socket_refused=False, landlock=None, capabilities=0, uid=60604)
REFUSED = Result("tcp", 1, 1000, 2000, sent=False, errno="EPERM", detail="IPv4 EPERM")


def outcome_of(
    channel: Channel = tcp,
    result: Result | None = REFUSED,
    *,
    arrived: bool = False,
    control: Control | None = PASSED,
    denials: tuple[Denial, ...] = (),
    deltas: dict[Rule, int] | None = None,
    facts: Facts | None = SEALED,
) -> Outcome:
    evidence = Evidence(
        results=[result] if result else [],
        arrived={channel.NAME: arrived},
        controls={channel.NAME: control} if control else {},
        denials=denials,
        deltas=deltas or {},
        facts=facts,
    )
    (outcome,) = judge([channel], evidence)
    return outcome


def test_blocked_and_counted() -> None:
    outcome = outcome_of(denials=(Denial(1500, Rule.SOCKET_STREAM),), deltas={Rule.SOCKET_STREAM: 2})
    assert outcome == Outcome(
        name="tcp",
        number=1,
        out=False,
        blocked=True,
        wall="seccomp",
        counted='denied{rule="socket_stream"}',
        control="passed",
        reason="IPv4 EPERM",
    )


def test_a_token_that_arrived_is_out_whatever_else_is_said() -> None:
    assert outcome_of(arrived=True).out
    assert not outcome_of(arrived=True).blocked
    assert outcome_of(arrived=True, result=None, control=FAILED).out
    assert not outcome_of(arrived=False).out


def test_an_attempt_that_sent_is_out_though_nobody_heard() -> None:
    outcome = outcome_of(result=replace(REFUSED, sent=True, errno="", detail="IPv4 sent"))
    assert (outcome.out, outcome.blocked, outcome.reason) == (True, False, "IPv4 sent")


@pytest.mark.parametrize("control", [FAILED, None])
def test_without_a_passing_control_nothing_counts_as_blocked(control: Control | None) -> None:
    outcome = outcome_of(control=control, denials=(Denial(1500, Rule.SOCKET_STREAM),))
    assert (outcome.out, outcome.blocked, outcome.wall) == (False, False, "")
    assert verdict(outcome) == outcome.control == "not applicable"
    assert outcome.reason == (control.reason if control else "the control was not run")
    assert outcome_of(control=PASSED).blocked


@pytest.mark.parametrize(
    "result", [None, replace(REFUSED, errno=""), replace(REFUSED, errno="KeyError")], ids=str
)
def test_no_answer_or_no_errno_is_unclear(result: Result | None) -> None:
    outcome = outcome_of(result=result)
    assert (outcome.out, outcome.blocked) == (False, False)
    assert verdict(outcome) == "unclear"
    assert outcome.reason


@pytest.mark.parametrize(
    ("rule", "error", "wall"),
    [
        (Rule.SOCK_CREATE, "EPERM", "cgroup-bpf"),
        (Rule.CONNECT4, "EPERM", "cgroup-bpf"),
        (Rule.CONNECT6, "EPERM", "cgroup-bpf"),
        (Rule.SENDMSG4, "EPERM", "cgroup-bpf"),
        (Rule.SENDMSG6, "EPERM", "cgroup-bpf"),
        (Rule.EGRESS, "ETIMEDOUT", "cgroup-bpf"),
        (Rule.SOCKET_PACKET, "EPERM", "seccomp"),
        (Rule.IO_URING, "EPERM", "seccomp"),
        (Rule.NAMESPACE, "EPERM", "seccomp"),
        (Rule.FILE_OUTSIDE, "EROFS", "namespaces"),
        (Rule.FILE_OUTSIDE, "ENOENT", "namespaces"),
        (Rule.FILE_OUTSIDE, "EACCES", "landlock"),
        (Rule.FOREIGN_FD, "EBADF", "no-inherited-fd"),
    ],
)
def test_the_wall_is_told_by_rule_and_errno(rule: Rule, error: str, wall: str) -> None:
    assert wall_of(error, [rule], SEALED) == wall


def test_eperm_of_a_missing_capability_is_not_the_filters() -> None:
    assert wall_of("EPERM", [Rule.SOCKET_PACKET], UNFILTERED) == "users"
    assert wall_of("EPERM", [Rule.IO_URING], UNFILTERED) == "users"
    # A filter of somebody else's that lets socket() pass did not refuse the packet socket.
    assert wall_of("EPERM", [Rule.SOCKET_PACKET], replace(SEALED, socket_refused=False)) == "users"
    assert wall_of("EPERM", [], replace(UNFILTERED, capabilities=1)) == ""


def test_the_wall_is_told_without_any_counter() -> None:
    assert wall_of("ECONNREFUSED", [], UNFILTERED) == "namespaces"
    assert wall_of("ENETUNREACH", [], UNFILTERED) == "namespaces"
    assert wall_of("EPERM", [], SEALED) == "seccomp"
    assert wall_of("EBADF", [], SEALED) == "no-inherited-fd"
    assert wall_of("EINTR", [], SEALED) == ""


def test_a_bpf_denial_beats_the_call_that_reports_it() -> None:
    """A socket that sock_create refuses is counted twice: there and where the call returns EPERM."""
    denials = (Denial(1400, Rule.SOCK_CREATE), Denial(1500, Rule.SOCKET_STREAM))
    outcome = outcome_of(
        denials=denials, deltas={Rule.SOCK_CREATE: 1, Rule.SOCKET_STREAM: 1}, facts=UNFILTERED
    )
    assert outcome.wall == "cgroup-bpf"


def test_events_belong_to_the_attempt_in_whose_time_they_fall() -> None:
    early, late = Denial(999, Rule.SOCKET_STREAM), Denial(2000 + 10_000_001, Rule.SOCKET_STREAM)
    evidence = Evidence([REFUSED], {}, {"tcp": PASSED}, (early, late), {Rule.SOCKET_STREAM: 2}, SEALED)
    assert rules_met(tcp, REFUSED, evidence) == []
    inside = replace(evidence, denials=(Denial(1000, Rule.SOCKET_STREAM), late))
    assert rules_met(tcp, REFUSED, inside) == [Rule.SOCKET_STREAM]


def test_a_lost_event_is_made_good_by_the_counter() -> None:
    other = Denial(9_000_000_000, Rule.SOCKET_STREAM)
    evidence = Evidence([REFUSED], {}, {"tcp": PASSED}, (other,), {Rule.SOCKET_STREAM: 3}, SEALED)
    assert rules_met(tcp, REFUSED, evidence) == [Rule.SOCKET_STREAM]
    explained = replace(evidence, deltas={Rule.SOCKET_STREAM: 1})
    assert rules_met(tcp, REFUSED, explained) == []


def test_an_event_without_a_counter_is_not_counted() -> None:
    assert outcome_of(denials=(Denial(1500, Rule.SOCKET_STREAM),), deltas={}).counted == ""


def test_outcomes_keep_the_order_of_the_channels() -> None:
    evidence = Evidence(results=[], arrived={}, controls={})
    assert [o.name for o in judge(CHANNELS, evidence)] == [channel.NAME for channel in CHANNELS]
    assert all(not o.out and not o.blocked for o in judge(CHANNELS, evidence))


def test_every_rule_of_a_channel_is_a_rule_of_the_kernel() -> None:
    for channel in (*CHANNELS, icmp, udp, packet, vsock, io_uring, file_outside, foreign_fd):
        assert channel.RULES
        assert {Rule[name.upper()] for name in channel.RULES}


def test_lines_are_read_back_as_they_were_written() -> None:
    written = {
        "name": "tcp",
        "number": 1,
        "begin_ns": 1000,
        "end_ns": 2000,
        "sent": False,
        "errno": "EPERM",
        "detail": "IPv4 EPERM",
    }
    lines = [
        "x " + json.dumps({"facts": attempts.facts()}),
        "a line of somebody else",
        "x {half a line",
        'x {"name": "udp"}',
        "x [1]",
        "x " + json.dumps(written),
    ]
    facts, results = read_lines(lines, prefix="x ")
    assert results == [REFUSED]
    assert facts is not None
    assert not facts.socket_refused
    assert read_lines(lines, prefix="y ") == (None, [])


def test_the_exit_status_follows_the_worst_channel() -> None:
    blocked = outcome_of()
    out, unclear = outcome_of(arrived=True), outcome_of(result=None)
    unheard = outcome_of(control=FAILED)
    for channels, status in [
        ((blocked, unheard), 0),
        ((blocked, unclear), 1),
        ((blocked, unclear, out), 4),
        ((unheard,), 0),
    ]:
        report = Report(kernel="6.1", channels=channels, walls={})
        assert report.exit_status == status
        assert report.as_json()["out"] is (status == 4)


def test_the_report_is_json_and_a_table() -> None:
    report = Report(kernel="6.1", channels=(outcome_of(),), walls={"seccomp": True})
    document = json.loads(json.dumps(report.as_json()))
    assert set(document) == {"schema", "kernel", "channels", "walls", "out"}
    assert set(document["channels"][0]) == {
        *("number", "name", "out", "blocked", "wall", "counted", "control", "reason"),
    }
    assert report.rows() == [("1", "tcp", "blocked", "seccomp", "-")]


def test_walls_are_those_that_were_tried() -> None:
    assert walls_tried([outcome_of()], SEALED) == {"seccomp": True, "landlock": True}
    assert walls_tried([], replace(UNFILTERED, landlock=False)) == {"seccomp": False, "landlock": False}
    assert walls_tried([], None) == {}


def test_channels_are_selected_by_number() -> None:
    assert [channel.NAME for channel in select_channels([9, 1])] == ["tcp", "vsock"]
    assert select_channels([]) == CHANNELS
    with pytest.raises(Exception, match="there is no attempt for channel 99") as caught:
        select_channels([99])
    assert caught.value.exit_status == 2  # type: ignore[attr-defined]
