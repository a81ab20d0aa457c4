# SPDX-License-Identifier: Apache-2.0
"""What the trainer's process makes of an app that fails."""

from __future__ import annotations

import subprocess
import sys

# An app that raises with the last byte taken, which its frame still holds.
STARVED = """
import resource
from pathlib import Path

import numpy as np

import homebound.trainer.app
from homebound.channel import Frame
from homebound.trainer import __main__ as trainer
from homebound.trainer.counting import Examples

ROOM = 200 << 20


class Hungry:
    def run(self, task):
        eaten, size = [], 1 << 24
        try:
            while size >= 64:
                try:
                    while True:
                        eaten.append(np.ones(size, np.uint8))
                except MemoryError:
                    size //= 2
            while True:
                eaten.append(str(len(eaten)) * 50)
        except MemoryError as error:
            raise RuntimeError from error


data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (data + ROOM, data + ROOM))
task = {"task": "7", "round": 1, "message_type": "train", "records": []}
print(trainer._answer(Hungry(), Frame("task", task), Examples()))
"""


def test_an_app_that_took_all_memory_is_explained_all_the_same() -> None:
    """Its frames are let go before the story is told, which reads source files and so needs memory."""
    done = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "{'task': '7', 'code': <RefusalCode.APP_FAILED: 'app_failed'>}" in done.stdout
    assert done.stderr.count("records = runner.run(") == 1, done.stderr
    assert "The above exception was the direct cause" in done.stderr
