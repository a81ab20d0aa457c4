# SPDX-License-Identifier: Apache-2.0
"""`homebound demo`: devices, a real SuperLink and a leaky app on this one machine. May import anything."""

from __future__ import annotations

from pathlib import Path


def run(devices: int, rounds: int, json_file: Path | None) -> int:
    """Play the demo; 0 only if nothing got out and every byte is accounted for, else 4."""
    # The library of the federation is heavy: `homebound --help` must not load it.
    from homebound.demo.play import play

    return play(devices, rounds, json_file)
