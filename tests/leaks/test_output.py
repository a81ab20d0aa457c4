# SPDX-License-Identifier: Apache-2.0
"""What an app says stays on the device: in one file for root, and in nothing that is forwarded or scraped."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import reach
from conftest import ROOT
from homebound.kernel import enter
from leaks.devices import daemon
from leaks.trainers import write_app

pytestmark = pytest.mark.root

TOKEN = "patient4711"
NOBODY = 65534
# Every way to say something that Python has, and names that others may see.
SAYING = f"""
import ctypes, logging, os, sys, threading, warnings
TOKEN = "{TOKEN}"
print(TOKEN)
print(TOKEN, file=sys.stderr, flush=True)
os.write(1, TOKEN.encode() + b"\\n")
os.write(2, b"<0>" + TOKEN.encode() + b" of priority emergency\\n")
logging.critical(TOKEN)
warnings.warn(TOKEN)
os.environ["TOKEN"] = TOKEN
ctypes.CDLL(None).prctl(15, TOKEN.encode(), 0, 0, 0)
thread = threading.Thread(target=lambda: 1 / 0, name=TOKEN)
thread.start()
thread.join()

class Gone:
    def __del__(self):
        raise ValueError(TOKEN)

Gone()
Error = type(TOKEN, (RuntimeError,), dict())
raise Error(TOKEN + " \\x1b[31m is odd")
"""


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_a_secret_of_the_app_stays_in_its_log(folder: Path) -> None:
    app = write_app(folder / "app")
    (app / "app.py").write_text(SAYING)
    with daemon(folder, app) as device:
        device.start()
        status = device.wait("the trouble", lambda s: "does not load" in s["problem"])
        metrics = scrape(device.config["metrics"]["port"])
        shown = device.command("logs")
        config = str(device.folder / "homebound.toml")
        as_nobody = subprocess.run(
            reach.as_user(NOBODY, [sys.executable, "-m", "homebound", "logs", "--config", config]),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        doctor = device.command("doctor")
        assert device.stop().status == 0
        log = device.state / "trainer.log"
        # The control: it was said, in all these ways, and root can read it.
        assert log.read_text().count(TOKEN) >= 10
        assert "Traceback" in log.read_text()
        assert shown.returncode == 0
        assert TOKEN in shown.stdout
        assert log.read_text().startswith(shown.stdout)  # it may have tried again meanwhile
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        assert as_nobody.returncode == 77, as_nobody.stderr
        assert TOKEN not in as_nobody.stdout + as_nobody.stderr
        told = {
            "daemon": "\n".join(device.lines()),
            "status": json.dumps(status),
            "metrics": metrics,
            "doctor": doctor.stdout + doctor.stderr,
        }
        told |= {
            str(path.relative_to(device.state)): path.read_bytes().decode(errors="replace")
            for path in device.state.rglob("*")
            if path.is_file() and path != log
        }
        assert any(name.startswith("guard/") for name in told)
        assert {name for name, text in told.items() if TOKEN in text} == set()
        assert all(line.startswith(("homebound: ", "  hint: ")) for line in device.lines()), device.lines()


def test_logs_on_a_terminal_cannot_steer_it(folder: Path) -> None:
    """There, what would move the cursor or set a title is spelt out; in a pipe it is as it was."""
    log = folder / "state/quiet/trainer.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"caf\xc3\xa9 \x1b]0;title\x07\tx\xff\n")
    config = folder / "homebound.toml"
    config.write_text(f'name = "quiet"\n[paths]\nstate = "{folder / "state"}"\n')
    words = [sys.executable, "-m", "homebound", "logs", "--config", str(config)]
    assert subprocess.run(words, capture_output=True, check=True).stdout == log.read_bytes()
    master, slave = os.openpty()
    subprocess.run(words, stdout=slave, check=True)
    os.close(slave)
    shown = os.read(master, 1000)
    os.close(master)
    assert shown.decode() == "café \\x1b]0;title\\x07\tx\\xff\r\n"
    log.unlink()
    gone = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (gone.returncode, "there is no" in gone.stderr) == (1, True)


def test_a_bug_in_another_role_is_told_without_its_text() -> None:
    """The exception of a role may quote what a peer sent; its kind and place are enough to report it."""
    program = "import sys; from homebound.kernel import enter; sys.excepthook = enter.explain\n"
    program += "import json\njson.loads('{patient4711')"
    words = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "daemon")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"homebound: -c ends by a bug: JSONDecodeError at decoder.py:\d+\n", done.stderr)
    assert enter.HAS_A_LOG == "homebound.trainer"
