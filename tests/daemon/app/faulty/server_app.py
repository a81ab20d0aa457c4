# SPDX-License-Identifier: Apache-2.0
"""What the server does: send what the files NUMBER.order say, and write NUMBER.reply for each.

So one run serves many rounds of many tests; each round costs one message and no start of a process.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()
PAUSE_SECONDS = 0.03
SIZE = 64


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Until there is a file ``end``."""
    folder = Path(str(context.run_config["orders"]))
    waiting: dict[str, tuple[str, float]] = {}
    (folder / "ready").touch()
    while not (folder / "end").exists():
        for path in sorted(folder.glob("*.order")):
            order = json.loads(path.read_text())
            path.unlink()
            (name,) = grid.push_messages([message(order)])
            if name:
                waiting[name] = (path.stem, time.monotonic() + order["seconds"])
            else:
                reply(folder, path.stem, {"outcome": "no such node"})
        for answer in grid.pull_messages(list(waiting)) if waiting else ():
            stem, _ = waiting.pop(answer.metadata.reply_to_message_id)
            reply(folder, stem, document(answer))
        for name in [name for name, (_, deadline) in waiting.items() if time.monotonic() > deadline]:
            stem, _ = waiting.pop(name)
            reply(folder, stem, {"outcome": "none"})
        time.sleep(PAUSE_SECONDS)


def message(order: dict[str, Any]) -> Message:
    """A model of 64 zeros, and what to do with it."""
    config = ConfigRecord(
        {"server-round": order["round"], "behaviour": order["behaviour"], "amount": order["amount"]}
    )
    model = ArrayRecord({"weights": Array(np.zeros(SIZE, np.float32))})
    return Message(
        RecordDict({"arrays": model, "config": config}), message_type="train", dst_node_id=order["node"]
    )


def document(answer: Message) -> dict[str, Any]:
    """A reply as JSON."""
    if answer.has_error():
        return {"outcome": "error", "code": answer.error.code, "reason": answer.error.reason}
    arrays = answer.content.array_records["arrays"]
    values = {name: [float(value) for value in array.numpy().flat] for name, array in arrays.items()}
    return {"outcome": "update", "arrays": values, "metrics": dict(answer.content.metric_records["metrics"])}


def reply(folder: Path, stem: str, words: dict[str, Any]) -> None:
    """In one step, so that nobody reads half of it."""
    part = folder / f"{stem}.part"
    part.write_text(json.dumps(words))
    part.rename(folder / f"{stem}.reply")
