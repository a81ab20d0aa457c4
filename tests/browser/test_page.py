# SPDX-License-Identifier: Apache-2.0
"""The daemon's own page in a real browser: on a phone and on a screen, with its headers, without scripts.

`make test-browser`: Chromium is 400 MB, so `make test` does without. PICTURES names a folder for the picture.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from homebound.books.accounts import Task
from homebound.metrics import STARTED, WALLS
from homebound.watcher import endpoint, page
from preview.browser import chromium, look
from unit.watcher.test_page import EVENT, NOW, made

pytestmark = [pytest.mark.slow]
# A frame of that width measures the page inside; only this test has a script.
FRAME = """<iframe id=f width={width} height=800 src=page.html></iframe><p id=o></p><script>f.onload=()=>
{{const d=f.contentDocument.documentElement;
o.textContent='width '+d.scrollWidth+' of '+d.clientWidth}}</script>"""
# The page loads itself anew every ten seconds: the browser's clock must not come so far.
SOON = "--virtual-time-budget=3000"


def text() -> bytes:
    """The page of a device that has worked and on which something was refused."""
    sent: dict[tuple[str, ...], float | None] = {
        ("gateway",): 123456.0, ("watcher",): 65432.0, ("trainer",): 0.0, ("guard",): 0.0,
    }  # fmt: skip
    memory: dict[tuple[str, ...], float | None] = {(role,): 23e6 for role in page.ROLES}
    registry, metrics = made({"homebound_transmit_bytes_total": sent, "homebound_memory_bytes": memory})
    metrics.add("homebound_violations_total", "trainer", "connect", by=5)
    for wall in WALLS:
        metrics.set("homebound_wall_active", wall != "no-swap", wall)
    for role in STARTED:
        metrics.set("homebound_role_up", 1, role)
    for task in range(8):
        metrics.observe("homebound_update_bytes", 5000.0 + task)
    metrics.set("homebound_round_last_success_timestamp_seconds", NOW - 61)
    for name, epsilon in (("spent", 1240.0), ("limit", 10000.0)):
        metrics.set(f"homebound_privacy_epsilon_{name}", epsilon, "all")
    tasks = [
        Task(f"t{n}", n, "train", "acknowledged", payload_bytes=5000 + n, pushed_bytes=9100 + n)
        for n in range(1, 9)
    ]
    glance = page.Glance("ward-3", tasks, [EVENT] * 5)
    return page.render(page.Samples(registry.collect()), glance, NOW)


@pytest.fixture
def server() -> Iterator[str]:
    """The page as the watcher serves it."""
    listener = socket.create_server(("127.0.0.1", 0))
    routes = endpoint.route(lambda _, start: [], lambda: True, text, page.HEADERS)
    serving = endpoint.serve(listener, routes, shutdown_seconds=0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    serving.shutdown()
    listener.close()


@pytest.mark.parametrize("width", [360, 1100])
def test_nobody_scrolls_sideways(tmp_path: Path, width: int) -> None:
    (tmp_path / "page.html").write_bytes(text())
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    shown = chromium(
        tmp_path, (tmp_path / "frame.html").as_uri(), SOON, "--allow-file-access-from-files", "--dump-dom"
    )
    found = re.search(r"width (\d+) of (\d+)", shown)
    assert found is not None, shown[-500:]
    assert int(found[2]) > width / 2  # the control: it was laid out
    assert int(found[1]) <= int(found[2]) + 1


def test_a_browser_takes_it_with_its_headers(server: str, tmp_path: Path) -> None:
    """The policy forbids all but its own style; without that it would look bare."""
    shown = chromium(tmp_path, server, SOON, "--dump-dom")
    assert "ward-3" in shown
    assert "5 violations" in shown
    out = Path(os.environ.get("PICTURES", tmp_path)).resolve() / "page.png"
    chromium(tmp_path, server, SOON, f"--screenshot={out}", "--hide-scrollbars", "--window-size=900,1180")
    width, height, colours = look(out.read_bytes())
    assert (width, height) == (900, 1180)
    assert colours > 50
    bare = tmp_path / "bare.html"
    bare.write_text("<p>ward-3")
    chromium(tmp_path, bare.as_uri(), SOON, f"--screenshot={tmp_path}/bare.png", "--window-size=900,1180")
    assert look((tmp_path / "bare.png").read_bytes())[2] < colours  # the control
