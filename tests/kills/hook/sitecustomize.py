# SPDX-License-Identifier: Apache-2.0
"""Loaded by the supervisor of a test alone: counts the steps of its own code and kills somebody at one.

A step is a function of ours that begins or ends, named "FILE:FUNCTION:call" or ":return" and numbered from
1 within a phase (start, round, stop). Python imports this file by its name from PYTHONPATH; the roles have a
clean environment and never see it. Source: sys.setprofile, site (sitecustomize).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

FOLDERS = ("supervisor", "rooms", "kernel", "books")
# Where a phase begins: the function, and for reports what kind of report it hears.
BEGINS = {"main": "start", "ready": "wait", "end_all": "stop"}
TURNS = frozenset({*BEGINS, "hear"})
REPORTS = {"started": "round", "acknowledged": "wait", "refused": "wait"}


class Hook:
    """``folder`` holds plan.json (who dies at which step), and gets steps.json and killed.json."""

    def __init__(self, folder: Path, cgroup: Path) -> None:
        self.folder = folder
        self.cgroup = cgroup
        self.me = os.getpid()
        self.names: dict[CodeType, str] = {}
        self.phase = ""
        self.steps: list[str] = []
        self.seen: Counter[str] = Counter()
        self.plan: dict[str, Any] = {}
        self.due = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        # Nobody is to die in this phase: look for the next one alone, so that the supervisor stays quick.
        if not self.plan and (event == "return" or code.co_name not in TURNS):
            return
        name = self.names.get(code)
        if name is None:
            name = self.names[code] = name_of(code)
        if not name:
            return
        if event == "call":
            self.turn(code.co_name, frame)
        step = f"{name}:{event}"
        self.seen[step] += 1
        step = f"{step}:{self.seen[step]}"
        if self.plan.get("record"):
            self.steps.append(step)
        if step == self.plan.get("step"):
            self.due = True
        if self.due:
            self.kill(step)

    def turn(self, name: str, frame: FrameType) -> None:
        """Into the phase that this call begins."""
        phase = BEGINS.get(name, "")
        if name == "hear":
            phase = REPORTS.get(str(frame.f_locals["report"].get("type")), "")
        if not phase or phase == self.phase or (self.phase == "stop" and phase != "stop"):
            return
        self.save()
        self.phase, self.due = phase, False
        self.seen.clear()
        path = self.folder / f"{phase}.json"
        self.plan = json.loads(path.read_text()) if path.exists() else {}

    def save(self) -> None:
        if self.steps:
            (self.folder / f"{self.phase}.steps").write_text("\n".join(self.steps))
            self.steps = []

    def kill(self, step: str) -> None:
        """The one of the plan; a role that does not run yet dies at the first step at which it does."""
        victim = self.plan["victim"]
        if victim == "supervisor":
            pids = [self.me]
        else:
            try:
                text = (self.cgroup / victim / "cgroup.procs").read_text()
            except FileNotFoundError:  # it ended before, and its cgroup has just been removed
                text = ""
            pids = [int(word) for word in text.split()]
        if not pids:
            return
        self.due, self.plan = False, {}
        (self.folder / "killed").write_text(f"{self.phase} {victim} {step}")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def name_of(code: CodeType) -> str:
    """FILE:FUNCTION for what is ours and has a name; "" for the rest."""
    _, found, path = code.co_filename.rpartition("/homebound/")
    if not found or path.split("/")[0] not in FOLDERS or code.co_name.startswith("<"):
        return ""
    return f"{path.removesuffix('.py')}:{code.co_qualname}"


if "homebound.supervisor" in sys.orig_argv and "KILL_FOLDER" in os.environ:
    hook = Hook(Path(os.environ["KILL_FOLDER"]), Path(os.environ["KILL_CGROUP"]))
    os.register_at_fork(after_in_child=lambda: sys.setprofile(None))
    import atexit

    atexit.register(hook.save)
    sys.setprofile(hook)
