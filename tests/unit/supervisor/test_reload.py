# SPDX-License-Identifier: Apache-2.0
"""What a changed configuration changes: the decision, pure, and that its form is the one of show-config."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from click.testing import CliRunner

from homebound import settings
from homebound.cli import main
from homebound.config.reading import read
from homebound.config.reference import declarations
from homebound.supervisor import reload


def running() -> settings.Settings:
    return settings.Settings(
        federation=settings.FederationSettings(address="127.0.0.1:9"),
        app=settings.AppSettings(
            path="/a", fab_sha256="0" * 64, tree_sha256="1" * 64, node_config={"a b": 1, "c": True}
        ),
        data=settings.DataSettings(path="/d"),
    )


def test_nothing_new() -> None:
    now = running()
    assert reload.compare(now, dict(reload.flatten(now))) == reload.Change(now, (), ())


def test_what_can_change_does() -> None:
    now = running()
    wanted = dict(reload.flatten(now))
    wanted |= {"canary.interval_seconds": 7.0, "trainer.tasks_max": 23, "trainer.log_bytes": 5}
    change = reload.compare(now, wanted)
    assert change.applied == ("canary.interval_seconds", "trainer.log_bytes", "trainer.tasks_max")
    assert change.fixed == ()
    assert change.settings.canary.interval_seconds == 7.0
    assert change.settings.trainer == dataclasses.replace(now.trainer, tasks_max=23, log_bytes=5)


def test_what_cannot_is_named() -> None:
    now = running()
    wanted = dict(reload.flatten(now)) | {"mode": "observe", "federation.poll_seconds": 2.0}
    del wanted["app.node_config.c"]
    change = reload.compare(now, wanted)
    assert change == reload.Change(now, (), ("app.node_config.c", "federation.poll_seconds", "mode"))


def test_what_is_live_are_settings() -> None:
    assert {declaration.key for declaration in declarations()} >= reload.LIVE


def test_form_is_that_of_show_config(tmp_path: Path) -> None:
    file = tmp_path / "homebound.toml"
    text = f"""
[federation]
address = "127.0.0.1:9"
[app]
path = "/srv/app"
fab_sha256 = "{"0" * 64}"
tree_sha256 = "{"1" * 64}"
[app.node_config]
"a b" = 1
[data]
path = "/srv/data"
[trainer]
groups = []
"""
    file.write_text(text)
    done = CliRunner().invoke(main.root, ["show-config", "--json", "--config", str(file)])
    found = read(file, host=False)
    assert found.settings is not None
    shown = {key: entry["value"] for key, entry in json.loads(done.output)["settings"].items()}
    assert shown == dict(reload.flatten(found.settings))
