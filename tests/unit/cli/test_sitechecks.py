# SPDX-License-Identifier: Apache-2.0
"""sitechecks.py: programs of the site, run by name, judged by their exit status."""

from __future__ import annotations

from pathlib import Path

from homebound.cli import sitechecks
from homebound.cli.sitechecks import SiteResult


def add(folder: Path, name: str, text: str, mode: int = 0o755) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(mode)


def test_no_folder_is_no_check(tmp_path: Path) -> None:
    assert sitechecks.run(tmp_path / "none") == []


def test_programs_run_by_name_and_say_one_line(tmp_path: Path) -> None:
    add(tmp_path, "20-bad", "echo disk is old; echo more; exit 23")
    add(tmp_path, "10-good", "echo all is well")
    add(tmp_path, "30-silent", "exit 5")
    assert sitechecks.run(tmp_path) == [
        SiteResult("10-good", True, "all is well"),
        SiteResult("20-bad", False, "disk is old"),
        SiteResult("30-silent", False, "exit status 5"),
    ]


def test_plain_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    add(tmp_path, "README", "exit 1", mode=0o644)
    add(tmp_path, ".hidden", "exit 1")
    assert sitechecks.run(tmp_path) == []


def test_what_others_can_change_is_not_run(tmp_path: Path) -> None:
    add(tmp_path, "check", f"touch {tmp_path}/ran", mode=0o775)
    (result,) = sitechecks.run(tmp_path)
    assert not result.passed
    assert not (tmp_path / "ran").exists()
    (tmp_path / "check").chmod(0o755)
    (result,) = sitechecks.run(tmp_path)
    assert result.passed
    assert (tmp_path / "ran").exists()


def test_a_check_that_hangs_or_cannot_be_run_has_failed(tmp_path: Path) -> None:
    add(tmp_path, "hangs", "exec sleep 60")
    add(tmp_path, "odd", "")
    (tmp_path / "odd").write_text("#!/nowhere/interpreter\n")
    hangs, odd = sitechecks.run(tmp_path, timeout=0.2)
    assert (hangs.passed, odd.passed) == (False, False)
    assert odd.line == "cannot be run: No such file or directory"
