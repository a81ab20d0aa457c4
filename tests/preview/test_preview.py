# SPDX-License-Identifier: Apache-2.0
"""The dashboards drawn with Grafana's own components, with the figures of a real run: `make preview`.

PICTURES names a folder for the pictures; docs/images has those of the README. What a picture shows is for a
person to judge; a test sees that no panel is empty, that none failed, and that there is something on it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dashboards.test_dashboards import load
from preview import browser
from preview.fleet import LEAKY, Fleet, fleet, work

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Flower's bundle builder uses a name that pathspec gives up; nothing of ours does.
    pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning"),
]
SECONDS = 120.0
# A picture in the repository stays for ever.
BYTES_MAX = 300_000
# Picture -> dashboard, the row that it begins with, and the one before which it ends ("": none).
PICTURES = {
    "host": ("host", "At a glance", "Refusals"),
    "host-more": ("host", "Refusals", "Processes and calls"),
    "fleet": ("fleet", "At a glance", ""),
}


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, float]]:
    """A fleet that has worked, and when it stopped to."""
    with fleet(tmp_path_factory.mktemp) as made:
        work(made, SECONDS, random.Random(23))
        yield made, time.time()


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    with browser.serving() as url:
        yield url


def words(worked: tuple[Fleet, float], board: str, **more: object) -> dict[str, str]:
    """What the page is asked for."""
    made, end = worked
    asked = {
        "board": board, "prometheus": f"http://127.0.0.1:{made.prometheus.port}", "seconds": SECONDS,
        "step": 1, "scrape": 1, "end": end, "instance": LEAKY if board == "host" else ".+", **more,
    }  # fmt: skip
    return {name: str(value) for name, value in asked.items()}


@pytest.mark.parametrize("board", ["host", "fleet"])
def test_every_panel_is_drawn_and_none_is_empty(
    worked: tuple[Fleet, float], page: str, tmp_path: Path, board: str
) -> None:
    panels = [panel for panel in load(board)["panels"] if panel["type"] != "row"]
    found = browser.report(page, words(worked, board), tmp_path)
    assert found == {"panels": len(panels), "empty": [], "failed": []}


def test_a_device_that_is_not_there_leaves_panels_empty(
    worked: tuple[Fleet, float], page: str, tmp_path: Path
) -> None:
    """The control of the test above."""
    found = browser.report(page, words(worked, "host", instance="nobody"), tmp_path)
    assert found["panels"] == len(found["empty"])


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(worked: tuple[Fleet, float], page: str, tmp_path: Path, name: str) -> None:
    board, first, last = PICTURES[name]
    rows = {
        panel["title"]: panel["gridPos"]["y"] for panel in load(board)["panels"] if panel["type"] == "row"
    }
    skip = rows[first]
    tall = browser.height(load(board), rows[last] - skip if last else 0)
    out = Path(os.environ.get("PICTURES", tmp_path)).resolve() / f"board-{name}.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    browser.picture(page, words(worked, board, skip=skip), tmp_path, out, tall)
    print(f"{out}: {out.stat().st_size} bytes")
    assert out.stat().st_size < BYTES_MAX
    width, height, colours = browser.look(out.read_bytes())
    assert (width, height) == (browser.WIDTH, tall)
    assert colours > 100
