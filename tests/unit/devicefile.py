# SPDX-License-Identifier: Apache-2.0
"""A right configuration of a device in a folder, with the app and the data that it names."""

from __future__ import annotations

from pathlib import Path

from homebound.apptree import tree_sha256


def write(folder: Path) -> Path:
    """Make them and return the configuration file. The device is called "edge"."""
    app, data = folder / "app", folder / "data"
    app.mkdir()
    (app / "pyproject.toml").write_text('[tool.flwr.app.components]\nclientapp = "m:app"\n')
    data.mkdir(mode=0o755)
    (data / "one").write_text("1")
    (data / "one").chmod(0o644)
    file = folder / "device.toml"
    file.write_text(f"""
        name = "edge"
        federation.address = "127.0.0.1:8000"
        app.path = "{app}"
        app.fab_sha256 = "{"0" * 64}"
        app.tree_sha256 = "{tree_sha256(app)}"
        data.path = "{data}"
        paths.run = "{folder}/run"
        paths.state = "{folder}/state"
        """)
    return file
