# SPDX-License-Identifier: Apache-2.0
"""view.py: numbers as a person reads them."""

from __future__ import annotations

import pytest

from homebound import view


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (123456, "123.5 kB"), (5 * 10**9, "5.0 GB"),
     (10**15, "1000.0 TB")],
)  # fmt: skip
def test_size(count: int | None, text: str) -> None:
    assert view.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90000, "1 d 1 h")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert view.duration(seconds) == text


def test_moment() -> None:
    assert view.moment(None) == "-"
    assert view.moment(0.0) == "-"
    assert view.moment(1.7e9).startswith("2023-11-1")


def test_a_setting_has_its_origin_behind_it_or_below() -> None:
    assert view.setting("a = 1", "default") == f"{'a = 1':<40}  # default"
    assert view.setting("a = 1", "/" + "x" * 60) == "a = 1\n    # /" + "x" * 60
