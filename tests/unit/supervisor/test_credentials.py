# SPDX-License-Identifier: Apache-2.0
"""Which credential is used."""

from __future__ import annotations

from pathlib import Path

from homebound.supervisor import credentials


def test_find(tmp_path: Path) -> None:
    (tmp_path / "homebound.node_key").write_text("key")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert credentials.find("node_key", environ) == f"{tmp_path}/homebound.node_key"
    assert credentials.find("root_certificates", environ) == ""
    assert credentials.find("node_key", {}) == ""
