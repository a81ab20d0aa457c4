# SPDX-License-Identifier: Apache-2.0
"""What every test shares: the package from the clone, and the rule for tests that need root.

A test marked ``root`` is skipped without root on a developer's machine; on a build server (CI is set) it
fails instead, because there a skip would pass for a proof.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).resolve().parent.parent
# One worker runs such a folder alone: its tests share a machine, or look at what all of them left behind.
TOGETHER = ("tests/leaks", "tests/system")


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """The tests of a file go to one worker, since they share fixtures; those of some folders, too."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return next((folder for folder in TOGETHER if file.startswith(f"{folder}/")), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """How tests are shared out where there are several workers."""
    return ByFile(config, log)


def need_of_root(euid: int, environ: Mapping[str, str]) -> Literal["run", "skip", "fail"]:
    """What becomes of a test that needs root, for this user and environment."""
    if euid == 0:
        return "run"
    return "fail" if environ.get("CI", "").lower() in ("1", "true") else "skip"


def pytest_configure() -> None:
    """Let the processes that tests start import the package from the clone, and let no property fail by time.

    How long an example took says how busy the machine is, not whether the property holds.
    """
    hypothesis.settings.register_profile(
        "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("untimed")
    inherited = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "daemon"), inherited]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Apply the rule for root before any fixture of the test is made."""
    if item.get_closest_marker("root") is None:
        return
    verdict = need_of_root(os.geteuid(), os.environ)
    if verdict == "fail":
        pytest.fail("needs root, and on a build server that is a failure", pytrace=False)
    if verdict == "skip":
        pytest.skip("needs root: run make test as root")
