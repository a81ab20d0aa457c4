# SPDX-License-Identifier: Apache-2.0
"""walls.py: what it says of this kernel is what metrics.py declares."""

from __future__ import annotations

from pathlib import Path

import pytest

from homebound.kernel import cgroups
from homebound.metrics import FEATURES
from homebound.rooms import walls


@pytest.mark.parametrize(
    ("controllers", "all_there"), [("cpu pids", False), ("cpuset cpu io memory pids", True)]
)
def test_the_kernels_features_are_those_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controllers: str, all_there: bool
) -> None:
    """All of them and no other, in that order; controllers as the file of the hierarchy's root has them."""
    (tmp_path / "cgroup.controllers").write_text(f"{controllers}\n")
    monkeypatch.setattr(cgroups, "mount", lambda: tmp_path)
    found = walls.kernel_features()
    assert tuple(found) == FEATURES
    assert found["cgroup_controllers"] is all_there
