# SPDX-License-Identifier: Apache-2.0
"""The man pages: all that exists is in them, and groff has nothing to complain about."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from conftest import ROOT
from homebound import metrics
from homebound.cli import main
from homebound.config import reference

PAGES = ("homebound.1", "homebound.toml.5", "homebound-metrics.7")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("man")
    words = [sys.executable, str(ROOT / "packaging/man/pages.py"), str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def text(pages: Path, name: str) -> str:
    return (pages / name).read_text().replace("\\-", "-").replace("\\fB", "").replace("\\fR", "")


def verbs(group: click.Group, path: str) -> list[str]:
    found = []
    for name, command in group.commands.items():
        inner = f"{path} {name}"
        found += verbs(command, inner) if isinstance(command, click.Group) else [inner]
    return found


def test_verbs_and_exit_statuses(pages: Path) -> None:
    page = text(pages, "homebound.1")
    assert "homebound ledger verify" in verbs(main.root, "homebound")
    for verb in verbs(main.root, "homebound"):
        assert f".TP\n{verb} " in page
    for number, meaning in main.EXIT_STATUS.items():
        assert f".TP\n{number}\n{meaning}.\n" in page


def test_settings(pages: Path) -> None:
    page = text(pages, "homebound.toml.5")
    for entry in reference.declarations():
        assert f".TP\n\\fI{entry.key}\n" in page


def test_metrics(pages: Path) -> None:
    page = text(pages, "homebound-metrics.7")
    for metric in metrics.METRICS:
        assert f".TP\n{metric.name} ({metric.type})\n" in page


@pytest.mark.parametrize("name", PAGES)
def test_groff_is_content(pages: Path, name: str) -> None:
    groff = shutil.which("groff")
    assert groff, "groff is missing: run make setup"
    words = [groff, "-mandoc", "-ww", "-z", "-Tutf8"]
    done = subprocess.run([*words, str(pages / name)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    # The same eyes see a fault.
    broken = (pages / name).read_text() + ".XY\n"
    done = subprocess.run([*words, "-"], input=broken, capture_output=True, text=True, check=True)
    assert "XY" in done.stderr
