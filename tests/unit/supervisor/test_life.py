# SPDX-License-Identifier: Apache-2.0
"""What the supervisor remembers: pauses that grow, violations that stand, walls that fell."""

from __future__ import annotations

from dataclasses import replace

from homebound.events import Role
from homebound.rooms.canary import WALLS, judge
from homebound.settings import AppSettings, DataSettings, FederationSettings, Settings
from homebound.supervisor.life import RESTART_FIRST, RESTART_MOST, STEADY_SECONDS, Life, Trials

CONFIG = Settings(
    federation=FederationSettings(address="127.0.0.1:1"),
    app=AppSettings(path="/app", fab_sha256="0" * 64, tree_sha256="0" * 64),
    data=DataSettings(path="/data"),
)


def test_pauses_double_up_to_a_limit_and_start_anew_after_a_steady_run() -> None:
    life = Life(since=0.0)
    pauses = [life.pause(Role.GUARD) for _ in range(10)]
    assert pauses[:3] == [RESTART_FIRST, 2 * RESTART_FIRST, 4 * RESTART_FIRST]
    assert pauses[-1] == RESTART_MOST
    life.ended(Role.GUARD, STEADY_SECONDS - 1)
    assert life.pause(Role.GUARD) == RESTART_MOST
    life.ended(Role.GUARD, STEADY_SECONDS + 1)
    assert life.pause(Role.GUARD) == RESTART_FIRST
    assert life.pause(Role.WATCHER) == RESTART_FIRST


def test_a_week_of_failures_does_not_overflow() -> None:
    life = Life(since=0.0)
    assert {life.pause(Role.TRAINER) for _ in range(100_000)} <= {
        RESTART_FIRST * 2.0**n for n in range(6)
    } | {RESTART_MOST}


def test_a_violation_stands_once_for_each_rule_and_role() -> None:
    life = Life(since=0.0)
    for count in (1, 2, 23):
        life.note({"rule": "socket_stream", "role": "trainer", "count": count}, float(count))
    life.note({"rule": "socket_stream", "role": "gateway", "count": 1}, 5.0)
    assert [(v.rule, v.role, v.count, v.last) for v in life.violations.values()] == [
        ("socket_stream", "trainer", 23, 23.0),
        ("socket_stream", "gateway", 1, 5.0),
    ]


def test_a_wall_that_is_required_and_fell_is_named() -> None:
    refused = {name: min(errors) for name, (_, errors) in WALLS.items()}
    assert Trials(1.0, 1.0, judge(refused)).fallen(CONFIG) == []
    open_bpf = Trials(1.0, 1.0, judge({**refused, "bpf_tcp4": 0}))
    assert [trial.name for trial in open_bpf.fallen(CONFIG)] == ["bpf_tcp4"]
    assert not open_bpf.holds("cgroup-bpf")
    assert open_bpf.holds("seccomp")


def test_observe_excuses_the_programs_alone_and_landlock_is_wanted_not_required() -> None:
    refused = {name: min(errors) for name, (_, errors) in WALLS.items()}
    observe = replace(CONFIG, mode="observe")
    trials = Trials(1.0, 1.0, judge({**refused, "bpf_tcp4": 0, "write_beside": 0, "tcp": 0}))
    assert [trial.name for trial in trials.fallen(observe)] == ["tcp"]


def test_what_was_never_tried_holds_nothing() -> None:
    assert not Trials().holds("seccomp")
    assert len(Trials(1.0, 1.0, judge({})).fallen(CONFIG)) > 0


def test_state_follows_the_round_and_a_federation_that_stays_away_is_news_once() -> None:
    life = Life(since=0.0, state="waiting")
    assert life.hear({"type": "started"})
    assert life.state == "training"
    assert life.hear({"type": "refused", "code": "timeout"})
    assert life.state == "waiting"
    news = [life.hear({"type": "disconnected", "reason": why}) for why in ("gone", "gone", "unreachable")]
    assert news == [True, False, True]
    assert life.hear({"type": "connected"})
    assert life.hear({"type": "disconnected", "reason": "unreachable"})


def test_problem_names_all_troubles_and_a_bar_above_them() -> None:
    life = Life(since=0.0)
    life.troubles |= {"guard": "the guard ended", "app": "the app does not load"}
    assert life.problem == "the guard ended; the app does not load"
    life.hear({"type": "released"})
    assert life.problem == "the guard ended"
    life.barred = "the canary got out"
    assert life.problem == "the canary got out"
