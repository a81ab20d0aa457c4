# SPDX-License-Identifier: Apache-2.0
"""The canary's judgement, and its positive control: outside every wall it gets out."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from homebound.kernel import lsm
from homebound.rooms import canary


def test_all_refused_means_all_hold() -> None:
    refused = {name: min(errors) for name, (_, errors) in canary.WALLS.items()}
    assert all(trial.held for trial in canary.judge(refused))
    assert len(canary.judge(refused)) == len(canary.WALLS)


def test_what_was_not_tried_does_not_hold() -> None:
    assert not any(trial.held for trial in canary.judge({}))


def test_success_and_a_wrong_error_do_not_hold() -> None:
    for number in (0, errno.ECONNREFUSED):
        trial = next(trial for trial in canary.judge({"tcp": number}) if trial.name == "tcp")
        assert (trial.held, trial.error, trial.wall) == (False, number, "seccomp")


def test_every_attempt_has_a_wall_and_every_wall_an_attempt() -> None:
    assert {*canary.SEALED, *canary.OPEN} == set(canary.WALLS)
    assert set(canary.LSM) == set(canary.LSM_ERRORS) == {program.label for program in lsm.PROGRAMS}


def test_hooks_are_asked_for_only_where_they_are() -> None:
    assert not [trial for trial in canary.judge({"lsm_bpf": 0}) if trial.wall == canary.LSM_WALL]
    trials = canary.judge({"lsm_bpf": errno.EPERM, "lsm_key": 0}, ["lsm_bpf", "lsm_key", "lsm_send"])
    held = {trial.name: trial.held for trial in trials if trial.wall == canary.LSM_WALL}
    assert held == {"lsm_bpf": True, "lsm_key": False, "lsm_send": False}


def test_outside_the_walls_it_gets_out() -> None:
    """Without this a canary that can do nothing anywhere would look like a wall."""
    words = [sys.executable, "-I", str(Path(canary.__file__))]
    for which in ("open", "sealed"):
        done = subprocess.run([*words, which], capture_output=True, check=True)
        results = json.loads(done.stdout)
        free = {name for name, error in results.items() if error == 0}
        sealed = {"tcp", "unix", "netlink", "io_uring", "keyring", "dumpable", "core_limit", "see_processes"}
        expected = {"bpf_tcp4", "bpf_udp4"} if which == "open" else sealed
        assert free >= expected
    Path("/usr/homebound-canary").unlink(missing_ok=True)


@pytest.mark.root
def test_outside_the_hooks_it_gets_out() -> None:
    words = [sys.executable, "-I", str(Path(canary.__file__)), "open", *canary.LSM]
    done = subprocess.run(words, capture_output=True, check=True)
    results = json.loads(done.stdout)
    assert {name: error for name, error in results.items() if name in canary.LSM and error} == {}
