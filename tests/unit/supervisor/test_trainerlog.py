# SPDX-License-Identifier: Apache-2.0
"""The app's output: for root alone, up to its budget, and never a reason to stop."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from homebound.supervisor.trainerlog import CUT, TrainerLog


def written(log: TrainerLog, data: bytes) -> bool:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    try:
        return log.drain(reading)
    finally:
        os.close(reading)


def test_it_is_kept_for_root_alone(tmp_path: Path) -> None:
    path = tmp_path / "trainer.log"
    written(TrainerLog(path, 1000), b"raw data\n")
    assert path.read_bytes() == b"raw data\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_budget_cuts_it_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "trainer.log"
    log = TrainerLog(path, 10)
    written(log, b"0123456789abcdef")
    written(log, b"more")
    assert path.read_bytes() == b"0123456789" + CUT


def test_the_end_of_the_output_is_told_from_a_pause(tmp_path: Path) -> None:
    log = TrainerLog(tmp_path / "trainer.log", 10)
    reading, writing = os.pipe()
    assert log.drain(reading)
    os.close(writing)
    assert not log.drain(reading)
    os.close(reading)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "trainer.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        TrainerLog(tmp_path / "trainer.log", 10)
