# SPDX-License-Identifier: Apache-2.0
"""`homebound release`: what it shows is what the guard does, and nothing is spent by looking."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from homebound.books import ledger
from homebound.cli.main import main
from unit import devicefile
from unit.books.rig import fill, writer_at

Captured = pytest.CaptureFixture[str]
BEFORE = {"w": np.ones((4, 3), np.float32), "count": np.array(7), "b": np.zeros(4, np.float32)}
# A change of norm 5 at the shipped clip norm of 1.
AFTER = {
    **BEFORE,
    "w": BEFORE["w"] + np.float32(4 / 12**0.5),
    "count": np.array(30),
    "b": np.full(4, 1.5, np.float32),
}


@pytest.fixture
def device(tmp_path: Path) -> Path:
    for name, arrays in (("before", BEFORE), ("after", AFTER)):
        save_file(arrays, tmp_path / f"{name}.safetensors")
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    return devicefile.write(tmp_path)


def preview(device: Path, capfd: Captured, *words: str, suffix: str = "safetensors", status: int = 0) -> Any:
    folder = device.parent
    files = [str(folder / f"after.{suffix}"), "--task", str(folder / f"before.{suffix}")]
    assert main(["release", "--dry-run", *files, "-c", str(device), "--json", *words]) == status
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_preview(device: Path, capfd: Captured, suffix: str) -> None:
    found = preview(device, capfd, "--metric=num-examples=718", "--metric=loss=0.12345", suffix=suffix)
    assert (found["schema"], found["refused"]) == (1, None)
    assert found["arrays"] == [
        {"name": "b", "shape": [4], "dtype": "float32", "bytes": 16, "noised": True},
        {"name": "count", "shape": [], "dtype": "int64", "bytes": 8, "noised": False},
        {"name": "w", "shape": [4, 3], "dtype": "float32", "bytes": 48, "noised": True},
    ]
    assert found["metrics"] == [
        {"name": "loss", "given": 0.12345, "leaves": 0.12, "bits": 14.0},
        {"name": "num-examples", "given": 718, "leaves": 640, "bits": 6.9},
    ]
    assert found["norm"] == pytest.approx(5.0)
    assert found["clip_factor"] == pytest.approx(0.2)
    assert (found["noise"], found["epsilon_alone"]) == (0.1, pytest.approx(91.8, abs=0.1))
    assert found["payload_bytes"] > 72
    assert set(found["bits"]) == {"weights", "metrics", "counters", "refusal", "timing"}


def test_a_preview_as_tables(device: Path, capfd: Captured) -> None:
    update = str(device.parent / "after.npz")
    assert main(["release", "--dry-run", update, "-c", str(device), "--metric=num-examples=718"]) == 0
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) < 80
    for words in ("4 x 3", "one number", "as it is", "noised", "640", "times 0.1", "by itself", "timing"):
        assert words in out


def test_what_would_be_refused(device: Path, capfd: Captured) -> None:
    found = preview(device, capfd, "--metric=secret=1", status=1)
    assert found == {"schema": 1, "refused": "metric_not_allowed"}
    assert preview(device, capfd, "--metric=num-examples=100")["refused"] is None


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["{folder}/after.npz"], 2, "nothing is ever sent from here"),
        (["--dry-run"], 2, "nothing is ever sent from here"),
        (["--dry-run", "{folder}/none.npz"], 1, "cannot be read as"),
        (["--dry-run", "{folder}/device.toml"], 1, "cannot be read as"),
        (["--dry-run", "{folder}/after.npz", "--metric=loss"], 2, "loss is no metric"),
        (["--dry-run", "{folder}/after.npz", "--metric=loss=true"], 2, "is no metric"),
        ([], 1, "there is no ledger"),
    ],
)
def test_a_wrong_question(device: Path, capfd: Captured, words: list[str], status: int, said: str) -> None:
    line = [word.format(folder=device.parent) for word in words]
    assert main(["release", *line, "-c", str(device)]) == status
    err = capfd.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_a_file_that_would_be_unpickled_is_not_read(device: Path, capfd: Captured) -> None:
    np.savez(device.parent / "object.npz", w=np.array([{"a": 1}], dtype=object))
    assert main(["release", "--dry-run", str(device.parent / "object.npz"), "-c", str(device)]) == 1
    assert "cannot be read as" in capfd.readouterr().err


def test_the_last_release(device: Path, capfd: Captured) -> None:
    folder = device.parent / "state" / "edge" / "guard"
    folder.mkdir(parents=True)
    details = {
        "run": "9",
        "message_type": "train",
        "noise": 0.1,
        "metrics": {"loss": 0.5},
        "bits": {"weights": None},
    }
    with closing(writer_at(folder / ledger.FILE)) as writer:
        fill(writer)
        writer.append(
            "release", "t", 7, payload_sha256="ab" * 32, payload_bytes=99, norm=3.0, details=details
        )
        writer.append("refusal", "u", 8)
    before = (folder / ledger.FILE).read_bytes()
    assert main(["release", "-c", str(device), "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["task"], found["details"]) == ("t", details)
    assert main(["release", "-c", str(device)]) == 0
    out = capfd.readouterr().out
    assert max(map(len, out.splitlines())) < 80
    for words in ("7, run 9, train", "99 bytes", "loss", "no bound"):
        assert words in out
    assert (folder / ledger.FILE).read_bytes() == before
