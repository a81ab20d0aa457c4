# SPDX-License-Identifier: Apache-2.0
"""walls.py: what it says of this kernel is what metrics.py declares."""

from __future__ import annotations

from pathlib import Path

import pytest

from homebound.kernel import cgroups
from homebound.metrics import FEATURES
from homebound.rooms import walls


def test_the_kernels_features_are_those_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them and no other, in that order; controllers as the file of the hierarchy's root has them."""
    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")
    monkeypatch.setattr(cgroups, "mount", lambda: tmp_path)
    found = walls.kernel_features()
    assert tuple(found) == FEATURES
    there = {name: present for name, present in found.items() if name.startswith("cgroup_")}
    assert there == {"cgroup_cpu": True, "cgroup_memory": False, "cgroup_io": False, "cgroup_pids": True}
