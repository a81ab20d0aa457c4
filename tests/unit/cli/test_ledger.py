# SPDX-License-Identifier: Apache-2.0
"""`homebound ledger`: what verify finds, against the device's own anchor, a head, an export."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from homebound.books import anchor, ledger
from homebound.cli.main import main
from unit import devicefile
from unit.books.rig import COUNT, fill, read, writer_at

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """The configuration of a device that has released and refused COUNT times."""
    config = devicefile.write(tmp_path)
    folder = tmp_path / "state" / "edge" / "guard"
    folder.mkdir(parents=True)
    with closing(writer_at(folder / ledger.FILE)) as writer:
        fill(writer)
    return config


@pytest.fixture
def file(device: Path) -> Path:
    return device.parent / "state" / "edge" / "guard" / ledger.FILE


def keep(file: Path) -> anchor.Anchor:
    """What the supervisor would have kept of it by now."""
    with closing(ledger.open_reader(file)) as reader:
        head, key = reader.head(), reader.public_key()
    found = anchor.Anchor(head.number, head.hash, key)
    anchor.store(file.parents[1] / anchor.FILE, found)
    return found


def cut(file: Path, *statements: str) -> None:
    connection = sqlite3.connect(file)
    connection.executescript("DROP TRIGGER IF EXISTS entries_stay; DROP TRIGGER IF EXISTS entries_last;")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def faults(capfd: Captured, *words: str | Path) -> list[dict[str, Any]]:
    status = main(["ledger", "verify", *map(str, words), "--json"])
    document = json.loads(capfd.readouterr().out)
    assert status == (4 if document["faults"] else 0)
    assert document["whole"] is not bool(document["faults"])
    found: list[dict[str, Any]] = document["faults"]
    return found


def test_a_whole_ledger(device: Path, file: Path, capfd: Captured) -> None:
    assert main(["ledger", "verify", "-c", str(device)]) == 0
    assert "cannot be told" in capfd.readouterr().out
    known = keep(file)
    assert main(["ledger", "verify", "-c", str(device)]) == 0
    out = capfd.readouterr().out
    assert out.splitlines() == [f"whole: {COUNT} entries, head {known.hash}", f"signed by {known.key}"]
    assert faults(capfd, "-c", device) == []


def test_a_cut_tail_shows_by_the_anchor_and_by_a_head(device: Path, file: Path, capfd: Captured) -> None:
    known = keep(file)
    cut(file, "DELETE FROM entries WHERE number > 20")
    wanted = [{"number": COUNT, "problem": "is not in the ledger as it was known"}]
    assert faults(capfd, "-c", device) == wanted
    assert faults(capfd, "--file", file, "--head", f"{known.number}:{known.hash}") == wanted
    # The control: whoever knows nothing sees nothing.
    assert faults(capfd, "--file", file) == []


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("UPDATE entries SET norm = 9 WHERE number = 4", 4),
        ("UPDATE entries SET signature = upper(signature) WHERE number = 5", 5),
        ("UPDATE entries SET signature = (SELECT signature FROM entries WHERE number = 2)", 1),
        ("DELETE FROM entries WHERE number = 9", 9),
        ("UPDATE key SET public = 'ab'", 0),
    ],
)
def test_what_was_changed_is_named(
    device: Path, file: Path, capfd: Captured, statement: str, number: int
) -> None:
    keep(file)
    cut(file, statement)
    assert number in [fault["number"] for fault in faults(capfd, "-c", device)]


def test_written_anew_by_somebody_with_another_key(device: Path, file: Path, capfd: Captured) -> None:
    known = keep(file)
    shutil.rmtree(file.parent)
    file.parent.mkdir()
    with closing(writer_at(file)) as writer:
        fill(writer)
    found = [fault["problem"] for fault in faults(capfd, "-c", device)]
    assert found[0] == "it names another key than the one that is known"
    assert found.count("is not signed by the ledger's key") == COUNT
    assert faults(capfd, "--file", file, "--key", known.key)
    assert faults(capfd, "--file", file) == []  # the control: it is whole in itself


def test_an_export_is_verified_elsewhere(device: Path, file: Path, capfd: Captured, tmp_path: Path) -> None:
    known = keep(file)
    assert main(["ledger", "export", "-c", str(device), "--json"]) == 0
    text = capfd.readouterr().out
    document = json.loads(text)
    assert (document["schema"], document["key"], len(document["entries"])) == (1, known.key, COUNT)
    assert document["head"] == {"number": COUNT, "hash": known.hash}
    copy = tmp_path / "export.json"
    copy.write_text(text)
    assert faults(capfd, "--file", copy, "--key", known.key, "--head", f"{COUNT}:{known.hash}") == []
    assert main(["ledger", "show", "--file", str(copy), "--json"]) == 0
    assert [entry["hash"] for entry in json.loads(capfd.readouterr().out)["entries"]] == [
        entry.hash for entry in read(file)
    ]
    document["entries"][3]["norm"] += 1
    del document["entries"][7]
    copy.write_text(json.dumps(document))
    assert [fault["number"] for fault in faults(capfd, "--file", copy)] == [4, 8]


def without_form(document: dict[str, Any]) -> None:
    del document["form"]


def without_field(document: dict[str, Any]) -> None:
    del document["entries"][0]["task"]


def wrong_type(document: dict[str, Any]) -> None:
    document["entries"][0]["round"] = True


@pytest.mark.parametrize("spoil", [without_form, without_field, wrong_type])
def test_what_is_no_export(
    device: Path, capfd: Captured, tmp_path: Path, spoil: Callable[[dict[str, Any]], None]
) -> None:
    assert main(["ledger", "export", "-c", str(device)]) == 0
    document = json.loads(capfd.readouterr().out)
    spoil(document)
    copy = tmp_path / "export.json"
    copy.write_text(json.dumps(document))
    assert main(["ledger", "verify", "--file", str(copy)]) == 1
    assert "is no exported ledger" in capfd.readouterr().err


@pytest.mark.parametrize("head", ["23", "23:", "x:" + "0" * 64, "23:" + "g" * 64, "-1:" + "0" * 64])
def test_a_head_that_is_none(device: Path, capfd: Captured, head: str) -> None:
    assert main(["ledger", "verify", "-c", str(device), f"--head={head}"]) == 2
    assert "is no head of a ledger" in capfd.readouterr().err


def test_a_damaged_file(device: Path, file: Path, capfd: Captured) -> None:
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    file.write_bytes(content)
    for verb, status in (("verify", 4), ("show", 1), ("export", 1)):
        assert main(["ledger", verb, "-c", str(device)]) == status
        assert "Traceback" not in capfd.readouterr().err
