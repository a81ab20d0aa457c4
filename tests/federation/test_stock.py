# SPDX-License-Identifier: Apache-2.0
"""The example app is a plain Flower app: it runs on Flower's own node, and Flower names it as we do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT
from homebound.apptree import tree_sha256
from homebound.demo.superlink import QUIET, Operator, Scalar, SuperLink, bundle, free_port, make_superlink

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
DIGITS = ROOT / "examples" / "digits"


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[SuperLink]:
    link = make_superlink(tmp_path / "superlink", tls=False)
    link.start()
    yield link
    link.stop()


@pytest.fixture
def supernode(superlink: SuperLink) -> Iterator[subprocess.Popen[bytes]]:
    """Flower's own node, with what it needs to find its part of the data. Ends with all that it started."""
    folder = superlink.folder
    home = {"FLWR_HOME": str(folder / "flwr"), "HOME": str(folder), "TMPDIR": str(folder)}
    environment = {**QUIET, **home, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    words = [str(Path(sys.executable).with_name("flower-supernode")), "--insecure"]
    words += ["--superlink", superlink.address, "--port", str(free_port())]
    words += ["--node-config", "partition-id=1 num-partitions=4"]
    with (folder / "supernode.log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
    yield process
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_app_runs_on_flowers_own_node(
    superlink: SuperLink, supernode: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    results = tmp_path / "results.jsonl"
    operator = Operator(superlink)
    config: dict[str, Scalar] = {
        "num-server-rounds": 1,
        "min-nodes": 1,
        "fraction-evaluate": 0.0,
        "results": str(results),
    }
    state = operator.wait(operator.start(bundle(DIGITS), config), 90)
    operator.close()
    assert state.outcome == "completed", (state, (superlink.folder / "supernode.log").read_text()[-2000:])
    before, after = (json.loads(line)["accuracy"] for line in results.read_text().splitlines())
    print(f"accuracy {before:.2f} -> {after:.2f} with a quarter of the data on one stock node")
    assert after > before


def test_identity_is_what_the_superlink_says(superlink: SuperLink) -> None:
    """Computed apart, as an operator does, and then read back from a run of the same folder."""
    done = subprocess.run(
        [sys.executable, "-m", "homebound.gateway.identity", str(DIGITS)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    identity = json.loads(done.stdout)
    operator = Operator(superlink)
    run = operator.start(bundle(DIGITS), {"min-nodes": 99})
    assert identity == {"fab_sha256": operator.fab_sha256(run), "tree_sha256": tree_sha256(DIGITS)}
    operator.stop(run)
    operator.close()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "is empty"),
        ({"x.py": ""}, "pyproject.toml not found"),
        ({"pyproject.toml": "[project]\nname = 'x'\n"}, "Invalid Flower App configuration"),
        ({"pyproject.toml": "= ="}, "cannot be bundled"),
    ],
)
def test_folder_that_is_no_app(tmp_path: Path, files: dict[str, str], words: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "homebound.gateway.identity", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
