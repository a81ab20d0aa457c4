# SPDX-License-Identifier: Apache-2.0
"""Runs inside a machine, with an environment that has torch: a SuperLink, the service on it, some rounds.

Writes /etc/homebound/homebound.toml for the digits example, starts homebound.service, lets it train, waits
until every byte is accounted for and prints what came of it as one line of JSON. The service goes on running.
``python tests/system/rounds.py ROUNDS [EPOCHS]``; with many epochs a round is long.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from homebound.apptree import tree_sha256
from homebound.demo.superlink import Operator, bundle, make_superlink

HERE = Path(__file__).resolve()
DIGITS = HERE.parents[2] / "examples" / "digits"
WORK, DATA, APP = Path("/srv/federation"), Path("/srv/data"), Path("/srv/app")
CONFIG = Path("/etc/homebound/homebound.toml")
SECONDS = 1200.0


def main(rounds: int, epochs: int = 5) -> int:
    """0 if the federation is content with the run and the books balance."""
    for folder in (WORK, DATA, APP):
        shutil.rmtree(folder, ignore_errors=True)
    WORK.mkdir(parents=True)
    shutil.copytree(DIGITS, APP, ignore=shutil.ignore_patterns("__pycache__"))
    words = [sys.executable, str(APP / "make_data.py"), "--out", str(WORK / "data"), "--devices", "1"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(APP / "__pycache__", ignore_errors=True)
    shutil.rmtree(APP / "digits" / "__pycache__", ignore_errors=True)
    shutil.copytree(WORK / "data" / "device-0", DATA)
    subprocess.run(["chown", "-R", "homebound-trainer:", str(DATA)], check=True)
    superlink = make_superlink(WORK / "superlink")
    app = bundle(APP)
    superlink.start(SECONDS)
    try:
        root = superlink.root_certificates
        _configure(superlink.address, str(root), app.fab_sha256)
        subprocess.run(["systemctl", "restart", "homebound"], check=True)
        operator = Operator(superlink)
        config: dict[str, str | int | float | bool] = {
            "num-server-rounds": rounds,
            "min-nodes": 1,
            "local-epochs": epochs,
            "test-data": str(WORK / "data/test/digits.npz"),
        }
        state = operator.wait(operator.start(app, config), SECONDS)
        found = _at_rest()
        operator.close()
    finally:
        superlink.stop()
    told = ("released", "unaccounted_bytes", "kernel_stream_bytes", "violations", "rounds_completed", "walls")
    verified = subprocess.run(["homebound", "ledger", "verify"], check=False).returncode == 0
    print(json.dumps({"run": vars(state), "verified": verified, **{key: found[key] for key in told}}))
    return 0 if verified and not found["unaccounted_bytes"] and state.outcome == "completed" else 1


def _configure(address: str, root: str, fab_sha256: str) -> None:
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(
        f'[federation]\naddress = "{address}"\nroot_certificates = "{root}"\npoll_seconds = 2.0\n'
        f'[app]\npath = "{APP}"\nfab_sha256 = "{fab_sha256}"\ntree_sha256 = "{tree_sha256(APP)}"\n'
        f'[data]\npath = "{DATA}"\n'
    )


def _at_rest() -> dict[str, Any]:
    """The daemon's status once no request is half sent."""
    deadline = time.monotonic() + 15
    while True:
        done = subprocess.run(["homebound", "status", "--json"], capture_output=True, check=False)
        found: dict[str, Any] = json.loads(done.stdout)
        if not found["unaccounted_bytes"] or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
