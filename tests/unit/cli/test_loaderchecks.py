# SPDX-License-Identifier: Apache-2.0
"""Who can load the programs: what is required follows the setting, and with auto either loader is enough."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from homebound.cli import loaderchecks
from homebound.errors import HomeboundError
from homebound.kernel import headers
from homebound.kernel.job import Loader
from homebound.rooms.walls import OBJECTS

BUILT = bool(list(OBJECTS.glob("*.bpf.o")))


def found(loader: Loader, site_probes: bool = False) -> dict[str, tuple[bool, bool]]:
    """Required and good by name."""
    return {one.name: (one.required, one.good) for one in loaderchecks.look(loader, site_probes)}


def test_what_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert found("libbpf")["libbpf"][0] is True
    assert found("auto")["libbpf"][0] is True  # there is no other
    assert found("bcc") == {**found("bcc"), "bcc": (True, False)}
    assert found("bcc")["libbpf"][0] is False
    if BUILT:
        assert "bcc" not in found("auto")  # not missed where nobody wants it
    assert found("auto", site_probes=True)["bcc"] == (False, False)


def test_with_bcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaderchecks, "without_bcc", lambda: "")
    assert found("auto")["libbpf"][0] is False
    assert found("auto")["bcc"] == (False, True)


def test_headers(tmp_path: Path) -> None:
    """The tree has what bcc asks for, links and all, and goes with the block; else it says so."""
    with pytest.raises(HomeboundError) as caught, headers.tree(tmp_path):
        pass
    assert caught.value.hint == "install the package linux-libc-dev"
    for name in ("linux", "asm", "asm-generic"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "types.h").write_text(f"// {name}\n")
    with headers.tree(tmp_path) as tree:
        assert (tree / "include/uapi/asm/types.h").read_text() == "// asm\n"
        assert (tree / "include/linux/types.h").read_text() == headers.TYPES
    assert not tree.exists()
