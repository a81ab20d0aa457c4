# SPDX-License-Identifier: Apache-2.0
"""The verdict on a channel: blocked needs an errno, a silent receiver and a control that passed."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from conftest import ROOT
from homebound.events import Rule
from homebound.leaktest import attempts, core_dump, signals, tcp, tun, vsock
from homebound.leaktest.attempts import CHANNELS, Channel
from homebound.leaktest.elsewhere import ALL, HELD_ELSEWHERE, Elsewhere
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
from homebound.leaktest.run import Report, choose, verdict

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
    assert wall_of(error, [rule], SEALED, tcp.WALLS) == wall


def test_eperm_of_a_missing_capability_is_not_the_filters() -> None:
    assert wall_of("EPERM", [Rule.SOCKET_PACKET], UNFILTERED, tcp.WALLS) == "users"
    assert wall_of("EPERM", [Rule.IO_URING], UNFILTERED, tcp.WALLS) == "users"
    # A filter of somebody else's that lets socket() pass did not refuse the packet socket.
    assert wall_of("EPERM", [Rule.SOCKET_PACKET], replace(SEALED, socket_refused=False), tcp.WALLS) == "users"
    assert wall_of("EPERM", [], replace(UNFILTERED, capabilities=1), vsock.WALLS) == ""
    assert wall_of("EPERM", [], replace(UNFILTERED, capabilities=1), tcp.WALLS) == "landlock"


def test_the_wall_is_told_without_any_counter() -> None:
    assert wall_of("ECONNREFUSED", [], UNFILTERED, tcp.WALLS) == "namespaces"
    assert wall_of("ENETUNREACH", [], UNFILTERED, tcp.WALLS) == "namespaces"
    assert wall_of("EPERM", [], SEALED, tcp.WALLS) == "seccomp"
    assert wall_of("EBADF", [], SEALED, tcp.WALLS) == "no-inherited-fd"
    assert wall_of("EINTR", [], SEALED, tcp.WALLS) == ""
    assert wall_of("SIGSYS", [], SEALED, tcp.WALLS) == "seccomp"
    assert wall_of("EACCES", [], replace(SEALED, landlock=False), tun.WALLS) == "users"


def test_the_filter_is_not_thanked_for_what_it_lets_pass() -> None:
    """A signal passes the filter; that it met nobody, or somebody of another user, was another wall."""
    assert wall_of("ESRCH", [], SEALED, signals.WALLS) == "namespaces"
    assert wall_of("EPERM", [], SEALED, signals.WALLS) == "users"


def test_what_does_not_happen_was_held_by_the_only_wall_there_is() -> None:
    assert wall_of("EFBIG", [], SEALED, core_dump.WALLS) == "no-core-dump"
    assert wall_of("EAFNOSUPPORT", [], SEALED, vsock.WALLS) == ""


def test_bytes_that_a_lonely_loopback_took_went_nowhere() -> None:
    sent = replace(REFUSED, sent=True, errno="", detail="IPv4 sent")
    alone = replace(UNFILTERED, links=0)
    held = outcome_of(result=sent, facts=alone)
    assert (held.out, held.blocked, held.wall) == (False, True, "namespaces")
    for other in (replace(alone, links=1), replace(alone, links=-1), None):
        assert outcome_of(result=sent, facts=other).out
    assert outcome_of(result=sent, facts=alone, arrived=True).out
    assert outcome_of(vsock, replace(sent, name="vsock"), facts=alone).out


def test_programs_that_observe_hold_nothing() -> None:
    evidence = Evidence(
        results=[replace(REFUSED, errno="ECONNREFUSED")],
        arrived={},
        controls={"tcp": PASSED},
        denials=(Denial(1500, Rule.SOCK_CREATE),),
        deltas={Rule.SOCK_CREATE: 1},
        facts=UNFILTERED,
        enforced=False,
    )
    (outcome,) = judge([tcp], evidence)
    assert (outcome.wall, outcome.counted) == ("namespaces", 'denied{rule="sock_create"}')


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
    for channel in CHANNELS:
        assert len({Rule[name.upper()] for name in channel.RULES}) == len(channel.RULES)
    # Nothing is refused there: a signal finds nobody, and a core or a page is not written.
    assert {channel.NAME for channel in CHANNELS if not channel.RULES} == {"signals", "core_dump", "swap"}


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
    assert set(document) == {"schema", "kernel", "channels", "walls", "without", "elsewhere", "out"}
    assert set(document["channels"][0]) == {
        *("number", "name", "out", "blocked", "wall", "counted", "control", "reason"),
    }
    assert report.rows() == [("1", "tcp", "blocked", "seccomp", "-")]
    assert report.summary() == "ways out tried: 1; got out: 0; blocked: 1; counted by the kernel: 0"


def test_walls_are_those_that_were_tried() -> None:
    assert walls_tried([outcome_of()], SEALED) == {"seccomp": True, "landlock": True}
    assert walls_tried([], replace(UNFILTERED, landlock=False)) == {"seccomp": False, "landlock": False}
    assert walls_tried([], None) == {}


def test_channels_are_chosen_by_number() -> None:
    channels, elsewhere = choose([9, 49, 1])
    assert [channel.NAME for channel in channels] == ["tcp", "vsock"]
    assert [row.number for row in elsewhere] == [49]
    assert choose([]) == (CHANNELS, HELD_ELSEWHERE)
    with pytest.raises(Exception, match="there is no way out of number 52") as caught:
        choose([52])
    assert caught.value.exit_status == 2  # type: ignore[attr-defined]


def test_every_way_out_of_the_list_is_tried_or_held_elsewhere() -> None:
    tried = [channel.NUMBER for channel in CHANNELS]
    elsewhere = [row.number for row in HELD_ELSEWHERE]
    assert sorted(tried + elsewhere) == list(ALL) == list(range(1, 52))


@pytest.mark.parametrize("row", HELD_ELSEWHERE, ids=lambda row: str(row.number))
def test_what_is_held_elsewhere_names_its_proof(row: Elsewhere) -> None:
    """A test that is there, or a paragraph that names the number."""
    file, _, name = row.proof.partition("::")
    text = (ROOT / file).read_text()
    assert f"def {name}(" in text if name else re.search(rf"^- \*\*{row.number}, ", text, re.MULTILINE)


def test_every_fault_of_others_has_a_test_that_is_there() -> None:
    page = (ROOT / "docs/leaks.md").read_text()
    rows = [line for line in page.partition("## Faults that others had")[2].splitlines() if "::" in line]
    assert len(rows) > 20
    for row in rows:
        match = re.search(r"`([^`]+)::([^`]+)` \|$", row)
        assert match, row
        assert f"def {match[2]}(" in (ROOT / match[1]).read_text(), row
