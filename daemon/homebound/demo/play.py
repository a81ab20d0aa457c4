# SPDX-License-Identifier: Apache-2.0
"""The demo's play: a SuperLink, devices, three rounds; then a leaky app; then the books.

Everything is real: Flower's own server, the daemon as `homebound run` starts it, the kernel's counters.
Works in a temporary folder and leaves nothing behind. May import anything.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from homebound.apptree import tree_sha256
from homebound.books import ledger
from homebound.demo import outcome, show
from homebound.demo.device import Device, Place
from homebound.demo.leak import leak
from homebound.demo.outcome import Books, Seen
from homebound.demo.superlink import App, Operator, SuperLink, bundle, free_port, make_superlink
from homebound.errors import HomeboundError, PermissionMissing

EXAMPLES = (Path(__file__).parents[3] / "examples", Path("/usr/share/homebound/examples"))
RUN_SECONDS = 300.0
REST_SECONDS = 10.0
EXIT_BAD = 4


@dataclass
class Stage:
    """What stands while the demo plays."""

    folder: Path
    app: App
    superlink: SuperLink
    devices: list[Device] = field(default_factory=list)

    @property
    def results(self) -> list[dict[str, Any]]:
        """What the server measured so far, a line a round."""
        file = self.folder / "results.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Of the devices that answer."""
        found = {device.name: device.status() for device in self.devices}
        return {name: status for name, status in found.items() if status is not None}


def play(devices: int, rounds: int, json_file: Path | None) -> int:
    """Play it all; 0 if everything held and added up, 4 if not. Raises HomeboundError."""
    if os.geteuid() != 0:
        raise PermissionMissing("the demo starts daemons, which need root", "sudo homebound demo")
    began = time.monotonic()
    terminal = show.console()
    with _stage(terminal, devices) as stage:
        operator = Operator(stage.superlink)
        try:
            _learn(terminal, stage, operator, rounds)
            learned = outcome.rounds(stage.results, list(stage.statuses().values()))
            honest, books = _at_rest(stage)
            terminal.print(show.books(books), "")
            leaky = stage.devices[-1]
            channels, status = leak(leaky, examples() / "leaky", lambda: _once(stage, operator))
            terminal.print(show.channels(channels), "")
            _, after = _at_rest(stage)
            statuses = {**honest, f"{leaky.name} (leaky)": status}
            every = [*books, *(book for book in after if book.name == leaky.name)]
            seen = Seen(time.monotonic() - began, learned, statuses, every, channels)
            terminal.print(show.metrics(_scrape(leaky.port), leaky.port), "")
        finally:
            operator.close()
    terminal.print(show.verdict(seen))
    terminal.print(
        "Next: `homebound leaktest` tries the same on this kernel without a federation; README.md says how"
        "\nto point `homebound run` at your own SuperLink."
    )
    if json_file is not None:
        json_file.write_text(json.dumps(outcome.document(seen), indent=2) + "\n")
    return 0 if seen.good else EXIT_BAD


def examples() -> Path:
    """Where the example apps lie: beside the source, or where the package puts them."""
    for folder in EXAMPLES:
        if (folder / "digits").is_dir():
            return folder
    raise HomeboundError("the example apps are not there", "run the demo from a clone of the project")


@contextmanager
def _stage(terminal: Console, devices: int) -> Iterator[Stage]:
    """Data, SuperLink and devices up; all of it gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="homebound-demo-"))
    folder.chmod(0o755)  # the roles of the devices must be able to come through
    digits = examples() / "digits"
    try:
        terminal.print(f"starting a SuperLink and {devices} devices ...", style="dim")
        superlink = make_superlink(folder / "superlink")
        stage = Stage(folder, bundle(digits), superlink)
        try:
            _split_data(digits, folder / "data", devices)
            superlink.start()
            place = Place(superlink.address, superlink.root_certificates, stage.app.fab_sha256)
            tree = tree_sha256(digits)
            for number in range(devices):
                device = Device(number, folder / f"device-{number}", free_port(), place)
                device.install(folder / "data" / f"device-{number}")
                stage.devices.append(device)
                device.start(digits, tree, {})
            for device in stage.devices:
                device.wait_connected()
            yield stage
        finally:
            for device in stage.devices:
                device.stop()
            superlink.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _split_data(digits: Path, out: Path, devices: int) -> None:
    words = [sys.executable, str(digits / "make_data.py"), "--out", str(out), "--devices", str(devices)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HomeboundError("the digits could not be split", done.stderr.strip().splitlines()[-1])


def _learn(terminal: Console, stage: Stage, operator: Operator, rounds: int) -> None:
    """The honest rounds, with a live view."""
    run = operator.start(stage.app, _config(stage, rounds, stage.folder / "results.jsonl"))
    deadline = time.monotonic() + RUN_SECONDS
    with Live(console=terminal, refresh_per_second=8, transient=False) as live:
        while True:
            state = operator.state(run)
            statuses = stage.statuses()
            done = outcome.rounds(stage.results, list(statuses.values()))
            live.update(show.learning(done, statuses, "" if state.finished else "training ..."))
            if state.finished or time.monotonic() > deadline:
                break
            time.sleep(0.1)
    if len(stage.results) < rounds + 1:
        raise HomeboundError(
            f"only {max(0, len(stage.results) - 1)} of {rounds} rounds were finished: {state.details}",
            "try again with `homebound --debug demo`, and look at the log lines above",
        )


def _once(stage: Stage, operator: Operator) -> None:
    """One more round, for the leaky app."""
    run = operator.start(stage.app, _config(stage, 1, stage.folder / "leaky.jsonl"))
    operator.wait(run, RUN_SECONDS)


def _config(stage: Stage, rounds: int, results: Path) -> dict[str, str | int | float | bool]:
    return {
        "num-server-rounds": rounds,
        "min-nodes": len(stage.devices),
        "test-data": str(stage.folder / "data" / "test" / "digits.npz"),
        "results": str(results),
    }


def _at_rest(stage: Stage) -> tuple[dict[str, dict[str, Any]], Sequence[Books]]:
    """Statuses and books once no request is half sent. A device that never rests is shown as it is."""
    deadline = time.monotonic() + REST_SECONDS
    while True:
        statuses = stage.statuses()
        books = [_books(device, statuses[device.name]) for device in stage.devices]
        if all(book.balanced for book in books) or time.monotonic() > deadline:
            return statuses, books
        time.sleep(0.05)


def _books(device: Device, status: dict[str, Any]) -> Books:
    reader = ledger.open_reader(device.folder / "state" / device.name / "guard" / ledger.FILE)
    try:
        entries = [entry for entry in reader.entries() if entry.time >= status["since"]]
        faults = len(reader.verify())
    finally:
        reader.close()
    return Books(
        name=device.name,
        kernel_stream_bytes=status["kernel_stream_bytes"],
        declared_stream_bytes=status["declared_stream_bytes"],
        unaccounted_bytes=status["unaccounted_bytes"],
        released_bytes=status["released"]["payload_bytes"],
        ledger_bytes=sum(entry.payload_bytes or 0 for entry in entries),
        ledger_faults=faults,
    )


def _scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text
