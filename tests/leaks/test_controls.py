# SPDX-License-Identifier: Apache-2.0
"""Each attempt, outside of any sandbox, gets its token out: else a wall could pass its test by accident."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import homebound.leaktest
from homebound.leaktest.attempts import CHANNELS, NAMES, Channel, channel_named, run
from homebound.leaktest.run import receivers, run_controls
from homebound.leaktest.target import Target

pytestmark = pytest.mark.root

# A kernel without the family or the call; io_uring can also be switched off for everybody (EPERM).
# Swap is a host's choice, too; where there is none, nothing goes there.
ABSENT = re.compile(r"EAFNOSUPPORT|EPROTONOSUPPORT|ENOSYS|ring EPERM|this host has no|asked ENOSPC")
NOT_CHANNELS = set(
    "__init__ attempts device elsewhere judge nodes receiver run target victim without".split()
)
SILENT_TOKEN = "0" * 32


def test_every_channel_file_is_in_the_list() -> None:
    files = {path.stem for path in Path(homebound.leaktest.__path__[0]).glob("*.py")}
    assert files - NOT_CHANNELS == set(NAMES)
    numbers = [channel.NUMBER for channel in CHANNELS]
    assert len(set(numbers)) == len(numbers)
    assert all(1 <= number <= 51 for number in numbers)


@pytest.mark.parametrize("channel", CHANNELS, ids=NAMES)
@pytest.mark.usefixtures("network")
def test_the_token_arrives_outside(channel: Channel) -> None:
    with receivers([channel]) as heard:
        controls = {**run_controls(heard.open), **heard.missing}
        deaf = channel.NAME not in heard.open or not heard.open[channel.NAME].holds(SILENT_TOKEN)
        assert deaf, "the receiver hears what nobody sent"
    control = controls[channel.NAME]
    print(f"{channel.NAME}: {control.reason}")
    if not control.passed and ABSENT.search(control.reason):
        pytest.skip(f"not applicable here: {control.reason}")
    assert control.passed, control.reason


@pytest.mark.usefixtures("network")
def test_both_kinds_of_icmp_socket_deliver() -> None:
    with receivers([channel_named("icmp")]) as heard:
        assert run_controls(heard.open)["icmp"].reason == "raw sent, ping sent"


@pytest.mark.usefixtures("network")
def test_a_receiver_that_is_gone_hears_nothing_and_the_attempt_says_so() -> None:
    places = {}
    channels = [channel_named(name) for name in ("tcp", "udp", "dns", "mapped", "unix_abstract", "io_uring")]
    with receivers(channels) as heard:
        places = {name: receiver.place for name, receiver in heard.open.items()}
    results = list(run(list(places), Target("a" * 32, places)))
    assert [(result["name"], result["sent"], result["errno"]) for result in results] == [
        (name, False, "ECONNREFUSED") for name in places
    ]


def test_an_attempt_that_breaks_off_was_not_refused() -> None:
    (result,) = run(["tcp"], Target("a" * 32, {}))
    assert (result["sent"], result["errno"]) == (False, "")
    assert result["detail"].startswith("broke off: KeyError")


def test_the_foreign_descriptor_is_left_open_on_purpose() -> None:
    with receivers([channel_named("foreign_fd")]) as heard:
        fd = heard.open["foreign_fd"].place["fd"]
        assert os.get_inheritable(fd)
        known = Target("a" * 32, {"foreign_fd": {"fd": 255, "known": list(range(3, 255))}})
        (result,) = run(["foreign_fd"], known)
        assert (result["sent"], result["errno"]) == (False, "EBADF")
        assert not heard.open["foreign_fd"].holds("a" * 32)


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_receivers_leave_nothing_behind() -> None:
    before = open_descriptors()
    with receivers(CHANNELS) as heard:
        folder = Path(heard.open["file_outside"].place["folder"])
        assert folder.is_dir()
    assert not folder.exists()
    assert open_descriptors() == before
