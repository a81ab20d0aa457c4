# SPDX-License-Identifier: Apache-2.0
"""Loads the operator's copy of a Flower ClientApp and calls it through Flower's public API.

Only code from the app folder that the operator approved runs here; nothing the federation sends does.
Sees the raw data (read-only, at /data). Its only way to speak is its return value, which the guard judges.
May import: records, recorddict, errors, flwr.app, flwr.clientapp.
"""

from __future__ import annotations

import importlib
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import DEFAULT_TTL, Context, Message, Metadata, RecordDict
from flwr.clientapp import ClientApp

from homebound.errors import HomeboundError
from homebound.recorddict import from_records, to_records
from homebound.records import Records

Scalar = str | int | float | bool


class AppError(HomeboundError):
    """The app folder does not hold a ClientApp that can be loaded."""


@dataclass(frozen=True)
class Installed:
    """A loaded app and the run configuration its own pyproject.toml gives."""

    client_app: ClientApp
    run_config: Mapping[str, Scalar]


@dataclass(frozen=True)
class Task:
    """One message of the federation as the guard passed it on."""

    task: str
    round: int
    message_type: str
    records: Records
    run_config: Mapping[str, Scalar]


def load(folder: Path) -> Installed:
    """Import the ClientApp that ``folder``/pyproject.toml names. Raises AppError, or what its import does."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    try:
        app_table = project["tool"]["flwr"]["app"]
        reference: str = app_table["components"]["clientapp"]
    except KeyError as error:
        raise AppError(f"pyproject.toml has no {error} for the ClientApp") from error
    module_name, _, attribute = reference.partition(":")
    sys.path.insert(0, str(folder))
    client_app = getattr(importlib.import_module(module_name), attribute, None)
    if not isinstance(client_app, ClientApp):
        raise AppError(f"{reference} is not a ClientApp")
    return Installed(client_app, flatten(app_table.get("config", {})))


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Nested run configuration as dotted keys, the form that Flower's Context has."""
    flat: dict[str, Scalar] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _metadata(task: Task, now: float) -> Metadata:
    """What Flower's Message wants to know of its way; run and node are the gateway's, so they are 0 here."""
    return Metadata(
        run_id=0,
        message_id=task.task,
        src_node_id=0,
        dst_node_id=0,
        reply_to_message_id="",
        group_id=str(task.round),
        created_at=now,
        ttl=DEFAULT_TTL,
        message_type=task.message_type,
        src_task_id=0,
        dst_task_id=0,
    )


class Runner:
    """Calls one installed app for task after task; keeps the app's own state while this process lives."""

    def __init__(
        self, installed: Installed, node_config: Mapping[str, Scalar], clock: Callable[[], float] = time.time
    ) -> None:
        self._installed = installed
        self._clock = clock
        self._node_config = dict(node_config)
        self._state = RecordDict()

    def run(self, task: Task) -> Records:
        """The records that the app answers. Raises whatever the app raises, AppError for an error reply."""
        # The typed overloads want to know a node and a task of Flower's own processes, which do not
        # run here (flwr 1.42, app/message/message.py).
        message: Message = Message(  # type: ignore[call-overload]
            content=from_records(task.records), metadata=_metadata(task, self._clock())
        )
        context = Context(
            run_id=0,
            node_id=0,
            node_config=dict(self._node_config),
            state=self._state,
            run_config={**self._installed.run_config, **task.run_config},
        )
        reply = self._installed.client_app(message, context)
        self._state = context.state
        if not reply.has_content():
            raise AppError("the app answered with an error")
        return to_records(reply.content)
