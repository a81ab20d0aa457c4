# SPDX-License-Identifier: Apache-2.0
"""Ask a running daemon how it is: one connection, one JSON document until the end.

Sees the status socket of one device and nothing else. May import: config, errors, settings.
Source: unix(7).
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from homebound.errors import HomeboundError, NotRunning, PermissionMissing, ServiceUnavailable, UsageError
from homebound.settings import PathsSettings, Settings
from homebound.valuekinds import is_name

SCHEMA = 1
TIMEOUT_SECONDS = 5.0
MAX_BYTES = 1 << 20
SOCKET = "status.sock"


def locate(config: Path | None, name: str | None, run: Path | None) -> tuple[Path, str]:
    """Run folder and name of the device that is meant, for ask().

    What is not given comes from the configuration; if that is wrong, from the defaults, unless ``config``
    was named.
    """
    if name is not None and not is_name(name):
        raise UsageError(f"{name} is no name of a device", "1 to 32 of a-z, 0-9 and -")
    values = {"paths.run": PathsSettings().run, "name": Settings.name}
    if name is None or run is None:
        from homebound.config.reading import read

        try:
            values |= read(config, host=False).values
        except HomeboundError:
            if config is not None:
                raise
    return run or Path(values["paths.run"]), name or values["name"]


def ask(run: Path, name: str, timeout: float = TIMEOUT_SECONDS) -> dict[str, Any]:
    """The status document of the device ``name`` whose run folder lies in ``run``.

    Raises NotRunning, PermissionMissing, ServiceUnavailable when there is no whole answer within
    ``timeout`` seconds of silence, HomeboundError when it is one of another version.
    """
    path = run / name / SOCKET
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout)
            client.connect(str(path))
            text = _read(client)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise NotRunning(f"no daemon named {name} runs", _others(run, name)) from None
    except PermissionError:
        raise PermissionMissing(f"you may not open {path}", "run this as root") from None
    except TimeoutError:
        raise ServiceUnavailable(f"the daemon {name} does not answer", "look at its journal") from None
    except OSError as error:
        raise ServiceUnavailable(
            f"{path}: {error.strerror or error}", "look at the daemon's journal"
        ) from None
    return _decode(text, name)


def _read(client: socket.socket) -> bytes:
    parts: list[bytes] = []
    while sum(map(len, parts)) <= MAX_BYTES and (part := client.recv(65536)):
        parts.append(part)
    return b"".join(parts)


def _decode(text: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        raise ServiceUnavailable(
            f"the daemon {name} gave no whole answer ({len(text)} bytes)",
            "ask again; it may just be stopping",
        ) from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise HomeboundError(
            f"the daemon {name} answers in another form than this program knows",
            "restart it, so that both are of one version",
        )
    return document


def _others(run: Path, name: str) -> str:
    """What to do: start it, or name one of those that have a socket."""
    try:
        found = sorted(path.parent.name for path in run.glob(f"*/{SOCKET}") if path.parent.name != name)
    except OSError:
        found = []
    if found:
        return f"there is {', '.join(found)}: name one with --name"
    return "systemctl start homebound, or `homebound run` as root"
