# SPDX-License-Identifier: Apache-2.0
"""Starts the child that loads with bcc and takes its answer; no compiler is ever in this process.

May import: errors, kernel.job, kernel.pins. Source: subprocess, "pass_fds".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homebound.errors import HomeboundError
from homebound.kernel import pins
from homebound.kernel.job import Job, Reasons

PACKAGE = Path(__file__).parents[1]
# A Raspberry Pi compiles one file in several seconds; a child that hangs must not keep the start for ever.
PATIENCE_SECONDS = 120.0
LOAD = "homebound.kernel.bccload"


class LoaderError(HomeboundError):
    """bcc is missing or could not load anything, by its child's word."""


def load(sources: Path, job: Job, compiled: Path | None = None) -> Reasons:
    """Compile the sources, load, attach and pin. Raises LoaderError, PermissionError."""
    pins.make(job.pins)
    order = {
        "sources": str(sources),
        "objects": list(job.objects),
        "shared": list(job.shared),
        "contents": {
            name: [(key.hex(), value.hex()) for key, value in pairs] for name, pairs in job.contents.items()
        },
        "settings": job.settings.hex(),
        "cgroup": job.cgroup_fd,
        "pins": str(job.pins),
        "compiled": str(compiled or ""),
        "off": [program.bpf_name for program in job.off],
    }
    reasons: Reasons = run(LOAD, order, (job.cgroup_fd,))["reasons"]
    return reasons


def run(module: str, order: Mapping[str, Any], pass_fds: tuple[int, ...] = ()) -> dict[str, Any]:
    """Have ``python -m module`` carry out an order. Raises LoaderError, PermissionError."""
    words = [sys.executable, "-s", "-P", "-m", module]
    # -P keeps the working folder off the path, so the package has to be named.
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")]))
    environment = {"PATH": os.defpath, "PYTHONPATH": path, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            words, input=json.dumps(order), capture_output=True, text=True, check=False,
            pass_fds=pass_fds, env=environment, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise LoaderError(
            f"the child that loads with bcc did not end in {PATIENCE_SECONDS:.0f} s", "set loader = libbpf"
        ) from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        last = next(reversed(done.stderr.strip().splitlines()), f"exit {done.returncode}")
        raise LoaderError(f"the child that loads with bcc failed: {last}", "set loader = libbpf") from error
    if "error" in answer:
        if answer.get("errno") in (1, 13):
            raise PermissionError(answer["errno"], answer["error"])
        raise LoaderError(answer["error"], answer["hint"])
    return answer
