# SPDX-License-Identifier: Apache-2.0
"""The metrics port for others on the network: TLS, a password, and nothing plain by mistake."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from daemon.rig import Daemon
from dashboards.promtext import DASHBOARDS
from dashboards.stack import Receiver, running
from homebound import passwords
from unit.watcher.test_door import certificate

pytestmark = [
    pytest.mark.root,
    # Flower's bundle builder uses a name that pathspec gives up; nothing of ours does.
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
NAME, PASSWORD = "prometheus", "correct horse 23"
PUBLIC = "192.0.2.23"  # RFC 5737; it is there in the test's own network namespace alone
WITH_ADDRESS = f'ip link set lo up && ip address add {PUBLIC}/32 dev lo && exec "$@"'
IN_NAMESPACE = ("unshare", "--net", "sh", "-c", WITH_ADDRESS, "sh")
ASK = """
import ssl, sys, urllib.request
url, certificate, name, password = sys.argv[1:]
context = ssl.create_default_context(cafile=certificate) if certificate else None
if context:
    context.check_hostname = False
request = urllib.request.Request(url)
if name:
    import base64
    request.add_header("Authorization", "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode())
try:
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        print(answer.status, answer.read().decode().count("homebound_"))
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture
def guarded(daemon: Daemon, tmp_path: Path) -> Daemon:
    """A device with a certificate and a password, not started."""
    pem, lines = certificate(tmp_path), tmp_path / "passwords"
    lines.write_text(passwords.line(NAME, PASSWORD) + "\n")
    for path in (pem, lines):
        path.chmod(0o600)
    daemon.config["metrics"] |= {"certificate": str(pem), "passwords": str(lines)}
    return daemon


def test_prometheus_scrapes_it(guarded: Daemon, tmp_path: Path) -> None:
    """By the second job of the shipped example, and by no lesser one."""
    guarded.start()
    guarded.wait("connected", lambda s: bool(s["federation"]["connected"]))
    (tmp_path / "password").write_text(PASSWORD)
    (tmp_path / "wrong").write_text("wrong horse 2323")
    example = yaml.safe_load((DASHBOARDS / "prometheus.example.yml").read_text())["scrape_configs"][1]
    target = f"127.0.0.1:{guarded.config['metrics']['port']}"
    example["tls_config"]["ca_file"] = guarded.config["metrics"]["certificate"]
    example["basic_auth"]["password_file"] = str(tmp_path / "password")
    jobs = []
    changes: dict[str, dict[str, Any]] = {
        "right": {},
        "wrong": {"basic_auth": {"username": NAME, "password_file": str(tmp_path / "wrong")}},
        "nameless": {"basic_auth": None},
        "untrusted": {"tls_config": {}},
        "plain": {"scheme": "http"},
    }
    for name, change in changes.items():
        job = {**example, **change, "job_name": name}
        job["static_configs"] = [{"targets": [target], "labels": {"instance": name, "job": "homebound"}}]
        jobs.append({key: value for key, value in job.items() if value is not None})
    folder = tmp_path / "prometheus"
    folder.mkdir()
    with running(folder, {}, Receiver(), jobs) as prometheus:
        deadline = time.monotonic() + 20
        while len(up := prometheus.values("up")) < len(jobs) or not any(up.values()):
            assert time.monotonic() < deadline, up
            time.sleep(0.2)
        time.sleep(2)  # one more scrape of each
        states = {
            key.split("instance=")[1].split()[0]: value for key, value in prometheus.values("up").items()
        }
        assert states == {"right": 1, "wrong": 0, "nameless": 0, "untrusted": 0, "plain": 0}
        assert prometheus.values("homebound_enforce") == {
            "__name__=homebound_enforce instance=right job=homebound": 1.0
        }
    # TLS and the password made the watcher do nothing that it may not do.
    status = guarded.status()
    assert status is not None
    assert [entry for entry in status["violations"] if entry["role"] == "watcher"] == []
    assert not [entry for entry in status["denied_recent"] if entry["role"] == "watcher"]


def ask(daemon: Daemon, path: str, scheme: str = "https", name: str = "", password: str = "") -> str:
    """From inside the daemon's network namespace, by the address that others would use."""
    assert daemon.process is not None
    metrics = daemon.config["metrics"]
    words = ["nsenter", f"--target={daemon.process.pid}", "--net", sys.executable, "-c", ASK]
    words += [f"{scheme}://{PUBLIC}:{metrics['port']}{path}", metrics.get("certificate", ""), name, password]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def wait_open(daemon: Daemon, scheme: str) -> None:
    deadline = time.monotonic() + 20
    while ask(daemon, "/healthz", scheme) != "200 0":
        assert time.monotonic() < deadline, daemon.lines()
        time.sleep(0.2)


def test_a_public_address_with_both(guarded: Daemon) -> None:
    guarded.config["metrics"]["address"] = PUBLIC
    guarded.start(before=IN_NAMESPACE)
    wait_open(guarded, "https")
    assert ask(guarded, "/metrics") == "401"
    assert ask(guarded, "/metrics", "http") not in ("200", "401")
    status, series = ask(guarded, "/metrics", name=NAME, password=PASSWORD).split()
    assert (status, int(series) > 200) == ("200", True)


def test_a_public_address_without_is_refused_unless_meant(daemon: Daemon) -> None:
    daemon.config["metrics"]["address"] = PUBLIC
    daemon.start(before=IN_NAMESPACE)
    ended = daemon.ended()
    assert ended.status == 78
    assert "metrics.address" in ended.fault
    assert "metrics.allow_plain = true" in ended.fault
    daemon.config["metrics"]["allow_plain"] = True
    daemon.start(before=IN_NAMESPACE)
    wait_open(daemon, "http")
    assert ask(daemon, "/metrics", "http").startswith("200 ")


def test_a_certificate_that_went_away_is_told(guarded: Daemon) -> None:
    Path(guarded.config["metrics"]["certificate"]).unlink()
    guarded.start()
    ended = guarded.ended()
    assert ended.status == 78
    assert "metrics.certificate" in ended.fault
