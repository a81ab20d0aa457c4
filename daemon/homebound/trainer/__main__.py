# SPDX-License-Identifier: Apache-2.0
"""The trainer's process: wait for the guard's word, load the app, answer task after task.

What the app prints goes to standard error, which the supervisor keeps on this device. A failure crosses
the link as a code alone. May import: channel, records, trainer.app, trainer.counting.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homebound import channel
from homebound.channel import ChannelClosed, Frame
from homebound.errors import HomeboundError
from homebound.records import RefusalCode, pack, unpack
from homebound.trainer.counting import Examples

APP_FOLDER = Path("/app")


def main() -> int:
    """Serve until the guard says ``end`` or closes the link."""
    parser = argparse.ArgumentParser(prog="homebound-trainer")
    parser.add_argument("--guard", type=int, required=True)
    parser.add_argument("--settings-fd", type=int, required=True)
    arguments = parser.parse_args()
    with os.fdopen(arguments.settings_fd) as file:
        settings = json.load(file)
    link = socket.socket(fileno=arguments.guard)
    os.set_inheritable(arguments.guard, False)
    for name in settings["preload"]:
        _preload(name)
    with contextlib.suppress(ChannelClosed):
        _serve(link, settings)
    return 0


def _preload(name: str) -> None:
    """Pay for a slow import before the first task; a missing library is the app's business."""
    try:
        importlib.import_module(name)
    except ImportError:
        sys.stderr.write(f"homebound: cannot preload {name}\n")


def _serve(link: socket.socket, settings: dict[str, Any]) -> None:
    runner, examples = None, Examples()
    while True:
        frame = channel.read(link, settings["max_body_bytes"])
        if frame.kind == "end":
            return
        if frame.kind == "load":
            runner = _load(link, settings)
        elif frame.kind == "task":
            channel.write(link, _answer(runner, frame, examples))


def _load(link: socket.socket, settings: dict[str, Any]) -> Any:
    """Import Flower and the app; tell the guard whether that worked."""
    try:
        from homebound.trainer.app import Runner, load

        runner = Runner(load(APP_FOLDER), settings["node_config"])
    except BaseException as error:  # noqa: BLE001 - the app's code may raise anything, SystemExit too
        _explain(error)
        channel.write(link, Frame("failed", {"task": "", "code": RefusalCode.APP_NOT_LOADED}))
        return None
    channel.write(link, Frame("ready", {"facts": {"landlock": os.environ.get("HOMEBOUND_LANDLOCK", "")}}))
    return runner


def _answer(runner: Any, frame: Frame, examples: Examples) -> Frame:
    task_id = frame.header["task"]
    if runner is None:
        return Frame("failed", {"task": task_id, "code": RefusalCode.APP_NOT_LOADED})
    from homebound.trainer.app import Task

    examples.begin()
    try:
        records = runner.run(
            Task(
                task=task_id,
                round=frame.header["round"],
                message_type=frame.header["message_type"],
                records=unpack(frame.header["records"], frame.body),
                run_config=frame.header.get("run_config", {}),
            )
        )
        header, body = pack(records)
        counted = {} if examples.count is None else {"counted": examples.count}
        update = Frame("update", {"task": task_id, "records": header, **counted}, body)
        channel.encode_header(update)  # names that do not fit are the app's mistake, not a broken link
    except BaseException as error:  # noqa: BLE001 - as above
        _explain(error)
        return Frame("failed", {"task": task_id, "code": RefusalCode.APP_FAILED})
    return update


def _explain(error: BaseException) -> None:
    """The whole story, for the log that stays on this device.

    The calls that failed still hold what they had, which may be all the memory there is: it is let go first.
    """
    for each in _causes(error):
        traceback.clear_frames(each.__traceback__)
    if isinstance(error, HomeboundError):
        sys.stderr.write(f"homebound: {error}\n")
    else:
        traceback.print_exception(error)
    sys.stderr.flush()


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those on the way to it."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


if __name__ == "__main__":
    sys.exit(main())
