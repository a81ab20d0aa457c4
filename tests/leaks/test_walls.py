# SPDX-License-Identifier: Apache-2.0
"""What is left when a wall is left out: the others hold all but a few ways, and these are known by name."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from homebound.leaktest.attempts import CHANNELS, NAMES, Channel, channel_named
from homebound.leaktest.device import device
from homebound.leaktest.run import leaktest, verdict
from homebound.leaktest.without import WALLS, leave_out
from leaks.conftest import USERS_BASE
from leaks.measure import HOLDS, JSON, NOT_HERE, OUT, PAGE, lookup, only_walls, others, with_tables
from leaks.network import fresh_network

pytestmark = pytest.mark.root

# Ways that one wall alone holds. On some kernels there are more: unprivileged user namespaces can be switched
# off, and network namespaces hold AF_VSOCK since Linux 7.0.
ONE_WALL: Mapping[str, frozenset[str]] = {}
# Pairs of walls and what is out without both: the proof that each was really gone in the test before.
SURELY_OUT: Mapping[tuple[str, str], frozenset[str]] = {
    ("seccomp", "entry"): frozenset({"netlink", "keyring"}),
    ("namespaces", "landlock"): frozenset({"shared_memory"}),
    ("no-inherited-fd", "entry"): frozenset({"foreign_fd", "scm_rights"}),
}
# One that each wall holds when it is alone, and one that it does not.
ALONE = {
    "namespaces": ("unix_path", "vsock"),
    "seccomp": ("tcp", "file_outside"),
    "landlock": ("file_outside", "udp"),
    "cgroup-bpf": ("io_uring", "unix_path"),
    "users": ("trace", "tcp"),
    "no-inherited-fd": ("foreign_fd", "tcp"),
    "entry": ("netlink", "file_outside"),
}
# The second filter speaks as the first one does.
SHOWN_AS = {"entry": "seccomp"}


@pytest.mark.parametrize("wall", WALLS)
def test_without_one_wall_the_others_hold(wall: str) -> None:
    """Those that no wall's loss lets out are tried with two walls gone elsewhere: here every channel is."""
    with fresh_network(), device(USERS_BASE, without=[wall]) as made:
        report = leaktest(CHANNELS, made.launch, made.watch)
    out = {outcome.name for outcome in report.channels if outcome.out}
    unclear = {outcome.name for outcome in report.channels if verdict(outcome) == "unclear"}
    assert out <= ONE_WALL.get(wall, frozenset()), report
    assert unclear == set()
    assert report.exit_status == (4 if out else 0)


@pytest.mark.parametrize("pair", SURELY_OUT, ids="+".join)
def test_without_both_walls_it_is_out(pair: tuple[str, str]) -> None:
    expected = SURELY_OUT[pair]
    with fresh_network(), device(USERS_BASE, without=pair) as made:
        report = leaktest([channel_named(name) for name in expected], made.launch, made.watch)
    assert {outcome.name for outcome in report.channels if outcome.out} == expected, report


@pytest.mark.parametrize("wall", WALLS)
def test_one_wall_alone_holds_what_is_its_own(wall: str) -> None:
    held, not_held = ALONE[wall]
    with fresh_network(), device(USERS_BASE, without=others(wall)) as made:
        report = leaktest([channel_named(held), channel_named(not_held)], made.launch, made.watch)
    words = {outcome.name: (verdict(outcome), outcome.wall) for outcome in report.channels}
    assert words[held] == ("blocked", SHOWN_AS.get(wall, wall))
    if words[not_held][0] != "not applicable":
        assert words[not_held] == ("OUT", "")


@pytest.mark.usefixtures("network")
def test_observing_programs_count_and_let_pass() -> None:
    with device(USERS_BASE, without=WALLS) as made:
        report = leaktest([channel_named("tcp")], made.launch, made.watch)
    (tcp,) = report.channels
    assert tcp.out
    assert tcp.counted == 'denied{rule="sock_create"}'


ENTERED = '{"paths":{"execute":[]},"descriptors":[],"calls":"sealed"}'


def test_leaving_out_takes_away_one_thing_each() -> None:
    words = ["bwrap", "--unshare-net", "--setenv", "A", "b", "--seccomp", "9", "--", "/usr/bin/setpriv"]
    words += ["--reuid=7", "python", "-m", "homebound.kernel.enter", ENTERED, "module", "rest"]
    gone = {wall: set(words) - set(leave_out(words, [wall])) for wall in WALLS}
    assert gone["seccomp"] == {"--seccomp", "9"}
    assert gone["users"] == {"/usr/bin/setpriv", "--reuid=7"}
    assert gone["landlock"] == gone["entry"] == {ENTERED}
    assert gone["namespaces"] == {"--unshare-net", ENTERED}  # its paths are the host's now
    assert gone["cgroup-bpf"] == gone["no-inherited-fd"] == set()
    assert '{"paths":{"execute":[]}}' in leave_out(words, ["entry"])
    assert '{"descriptors":[],"calls":"sealed"}' in leave_out(words, ["landlock"])


def test_the_page_has_the_tables_of_the_measurement() -> None:
    page = PAGE.read_text()
    document = json.loads(JSON.read_text())
    assert page == with_tables(page, document), "run python tests/leaks/measure.py --table"
    assert {name for run in document["runs"] for name in run["channels"]} == set(NAMES)
    assert len(document["runs"]) == 1 + 2 * len(WALLS)


@pytest.mark.parametrize("channel", CHANNELS, ids=NAMES)
def test_what_was_measured_is_what_the_channel_says(channel: Channel) -> None:
    document = json.loads(JSON.read_text())
    whole = lookup(document, ())[channel.NAME]
    if whole == NOT_HERE:
        pytest.skip("it was not on the machine of the measurement")
    assert whole == HOLDS
    alone = {wall for wall in WALLS if lookup(document, others(wall))[channel.NAME] == HOLDS}
    assert alone >= set(channel.WALLS) & set(WALLS)
    for wall in only_walls(document, channel.NAME):
        assert channel.NAME in ONE_WALL[wall]
        assert lookup(document, others(wall))[channel.NAME] in (HOLDS, OUT)
