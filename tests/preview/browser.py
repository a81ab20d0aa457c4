# SPDX-License-Identifier: Apache-2.0
"""The built preview page on loopback, and headless Chromium that opens it: what it reports, and a picture."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from dashboards.promtext import DASHBOARDS

DIST = DASHBOARDS / "preview" / "dist"
WIDTH = 1600
# As board.jsx has it: a line of the grid, and what stands above the first one.
LINE, HEAD = 38, 64
# For loading, queries and drawing; the browser's clock runs as fast as it can and waits for the network.
BUDGET_MILLISECONDS = 20_000


@contextmanager
def serving() -> Iterator[str]:
    """The page and the dashboards; the address."""

    class Handler(SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            name = urlsplit(path).path
            if re.fullmatch(r"/[a-z]+\.json", name):
                return str(DASHBOARDS / name[1:])
            # Grafana's components ask for their icons below build/.
            return str(DIST / name.removeprefix("/build").lstrip("/"))

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the library's)
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def height(board: Mapping[str, Any], rows: int = 0) -> int:
    """How many pixels the board is high, or ``rows`` lines of it."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    return HEAD + (rows or bottom) * LINE + 8


def report(url: str, words: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """What the page says of itself when all is drawn."""
    text = chromium(folder, f"{url}/?{urlencode(words)}", "--dump-dom")
    found = re.search(r'<script id="report"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert found is not None, text[-2000:]
    made: dict[str, Any] = json.loads(unescape(found[1]))
    return made


def picture(url: str, words: Mapping[str, str], folder: Path, out: Path, tall: int) -> None:
    """A PNG of the page."""
    chromium(
        folder, f"{url}/?{urlencode(words)}", f"--window-size={WIDTH},{tall}", f"--screenshot={out}",
        "--hide-scrollbars",
    )  # fmt: skip


def look(png: bytes) -> tuple[int, int, int]:
    """Width, height, and how many different words of four bytes the picture's data hold. PNG, chapter 11"""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    place, data = 8, b""
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        if png[place + 4 : place + 8] == b"IDAT":
            data += png[place + 8 : place + 8 + length]
        place += length + 12
    pixels = zlib.decompress(data)
    return width, height, len({pixels[at : at + 4] for at in range(0, len(pixels) - 4, 401)})


def chromium(folder: Path, url: str, *options: str) -> str:
    """What headless Chromium prints; its profile lies in ``folder``. An option's last value counts."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail("chromium is missing: run make test-browser", pytrace=False)
    words = [
        program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--force-device-scale-factor=1",
        f"--user-data-dir={folder / 'profile'}", f"--virtual-time-budget={BUDGET_MILLISECONDS}",
        f"--window-size={WIDTH},1200", *options, url,
    ]  # fmt: skip
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=300, env={**os.environ, "HOME": str(folder)}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
