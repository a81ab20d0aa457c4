# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus and a real Alertmanager on loopback, with the project's own rules and example configs.

Only what a test cannot wait for is changed: scrapes and evaluations every second, ports, and where the
webhooks go. What Alertmanager sends is kept as it came.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.promtext import DASHBOARDS, RULES
from homebound.demo.superlink import free_port

START_SECONDS = 30.0
WEBHOOK = "http://127.0.0.1:9099"


@dataclass
class Receiver:
    """The webhook: every notification, as it came and as text, and when on the monotonic clock."""

    texts: list[str] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)

    def arrival(self, **labels: str) -> float:
        """When the first notification with such an alert came; it must have."""
        for moment, text in zip(self.moments, self.texts, strict=False):
            if any(labels.items() <= alert["labels"].items() for alert in json.loads(text)["alerts"]):
                return moment
        raise AssertionError(f"no alert {labels}; told: {self.names()}")

    def alerts(self, **labels: str) -> list[dict[str, Any]]:
        """All that were told so far and have these labels."""
        told = [alert for text in list(self.texts) for alert in json.loads(text)["alerts"]]
        return [alert for alert in told if labels.items() <= alert["labels"].items()]

    def wait(self, seconds: float, **labels: str) -> dict[str, Any]:
        """The first alert with these labels, waited for."""
        deadline = time.monotonic() + seconds
        while not (found := self.alerts(**labels)):
            assert time.monotonic() < deadline, f"no alert {labels} in {seconds:g} s; told: {self.names()}"
            time.sleep(0.05)
        return found[0]

    def names(self) -> list[str]:
        """What was told, short."""
        return sorted({" ".join(str(value) for value in alert["labels"].values()) for alert in self.alerts()})


@contextmanager
def receiving(receiver: Receiver) -> Iterator[int]:
    """Listen for webhooks; the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.moments.append(time.monotonic())
            receiver.texts.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the library's)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Prometheus:
    """The one that runs."""

    port: int

    def ask(self, path: str, **words: str) -> Any:
        """One request to its interface; the data. Raises AssertionError with its own words."""
        query = urllib.parse.urlencode(words)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}?{query}", timeout=20) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{words}: {error.read().decode()}") from error

    def values(self, expr: str) -> dict[str, float]:
        """An instant query: labels as text -> value."""
        found = self.ask("/api/v1/query", query=expr)["result"]
        return {
            " ".join(f"{key}={value}" for key, value in entry["metric"].items()): float(entry["value"][1])
            for entry in found
        }

    def firing(self) -> list[dict[str, str]]:
        """Labels of the alerts that fire now."""
        found = self.ask("/api/v1/alerts")["alerts"]
        return [alert["labels"] for alert in found if alert["state"] == "firing"]


@contextmanager
def running(
    folder: Path, targets: Mapping[str, int], receiver: Receiver, jobs: Sequence[Mapping[str, Any]] = ()
) -> Iterator[Prometheus]:
    """Both programs, scraping ``targets`` (device name -> port) and ``jobs``, until the block ends."""
    with receiving(receiver) as webhook:
        prometheus, alertmanager = free_port(), free_port()
        text = (DASHBOARDS / "alertmanager.example.yml").read_text()
        assert text.count(WEBHOOK) == 3
        (folder / "alertmanager.yml").write_text(text.replace(WEBHOOK, f"http://127.0.0.1:{webhook}"))
        (folder / "prometheus.yml").write_text(yaml.safe_dump(_config(targets, alertmanager, jobs)))
        commands = (
            _command(
                "prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml",
                f"--storage.path={folder}/alerts", f"--web.listen-address=127.0.0.1:{alertmanager}",
                "--cluster.listen-address=",
            ),
            _command(
                "prometheus", f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/series", f"--web.listen-address=127.0.0.1:{prometheus}",
            ),
        )  # fmt: skip
        processes = []
        try:
            for words in commands:
                with (folder / f"{Path(words[0]).name}.log").open("wb") as log:
                    processes.append(subprocess.Popen(words, stdout=log, stderr=log, cwd=folder))
            for port in (alertmanager, prometheus):
                _wait_ready(port, folder)
            yield Prometheus(prometheus)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(20)


def _command(name: str, *options: str) -> Sequence[str]:
    program = shutil.which(name)
    if program is None:
        pytest.fail(f"{name} is missing: run make setup", pytrace=False)
    return [program, *options]


def _config(
    targets: Mapping[str, int], alertmanager: int, jobs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The example, every second."""
    config: dict[str, Any] = yaml.safe_load((DASHBOARDS / "prometheus.example.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    config["scrape_configs"][1:] = jobs
    config["scrape_configs"][0]["static_configs"] = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": name}} for name, port in targets.items()
    ]
    return config


def _wait_ready(port: int, folder: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5):
                return
        except OSError:
            logs = [re.sub(r"\s+", " ", path.read_text())[-500:] for path in folder.glob("*.log")]
            assert time.monotonic() < deadline, logs
            time.sleep(0.05)
