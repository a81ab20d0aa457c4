# SPDX-License-Identifier: Apache-2.0
"""tests/reach.py: another user gets to a clone behind root's folder, and to nothing beside it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from homebound.leaktest.without import closed_above
from reach import as_user

pytestmark = pytest.mark.root
NOBODY = 65534


@pytest.fixture
def clone() -> Iterator[Path]:
    """A folder with a file in it, below one of mode 700 that has a file, too."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "some/clone")
        clone.mkdir(parents=True)
        clone.joinpath("file").write_text("ours")
        Path(folder, "secret").write_text("root's")
        yield clone


def cat(file: Path, clone: Path) -> str:
    words: Sequence[str] = as_user(NOBODY, ["cat", str(file)], clone)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def test_the_clone_is_found_and_nothing_beside_it(clone: Path) -> None:
    top = clone.parents[1]
    assert closed_above(clone) == top
    assert cat(clone / "file", clone) == "ours"
    assert "No such file" in cat(top / "secret", clone)
    assert cat(Path("/proc/self/status"), clone).count(f"\t{NOBODY}" * 4) == 2
    # Outside of the command all is as before.
    assert "Permission denied" in cat(clone / "file", Path("/usr"))
    assert (top / "secret").read_text() == "root's"


def test_an_open_way_is_left_alone(clone: Path) -> None:
    top = clone.parents[1]
    top.chmod(0o755)
    assert closed_above(clone) is None
    assert as_user(NOBODY, ["true"], clone)[0] == "setpriv"
    assert cat(top / "secret", clone) == "root's"
