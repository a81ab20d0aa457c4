# SPDX-License-Identifier: Apache-2.0
"""What takes the gateway's place in a test: code of an attacker with all that a gateway has.

It sends to the one allowed endpoint from many connections as fast as it can, declares nothing, and makes up
tasks so that the guard releases something and grants credit for it. Runs as ``homebound.gateway``.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time

import numpy as np
from homebound.gateway.opening import begin  # type: ignore[import-not-found]  # gateway_opening.py

from homebound import channel, control
from homebound.records import Record, pack, unpack

CONNECTIONS = 8
NUMBERS = 50_000


def main() -> None:
    opening = begin()
    for _ in range(CONNECTIONS):
        threading.Thread(target=pour, args=(opening.place,), daemon=True).start()
    threading.Thread(target=make_up_tasks, args=(opening.guard,), daemon=True).start()
    # It also says again and again that its link broke in the middle of a delivery.
    for _ in itertools.count():
        for task in list(RELEASED):
            control.send(
                opening.supervisor,
                {"type": "declare", "request": "push_object", "stream_bytes": 1, "task": task},
            )
        control.send(opening.supervisor, {"type": "disconnected", "reason": "gone", "hint": ""})
        control.send(opening.supervisor, {"type": "connected", "node": "1"})
        time.sleep(0.1)


RELEASED: list[str] = []


def pour(place: tuple[str, int]) -> None:
    while True:
        try:
            with socket.create_connection(place) as client:
                while True:
                    client.sendall(bytes(1 << 20))
        except OSError:
            time.sleep(0.1)


def make_up_tasks(guard: int) -> None:
    link = socket.socket(fileno=guard)
    model = Record("arrays", "arrays", ("w",), (np.zeros(NUMBERS, np.float32),))
    order = Record("config", "config", ("behaviour", "amount"), ("honest", 0.0))
    header, body = pack((model, order))
    for number in itertools.count():
        name = f"made-up-{number}"
        task = {"task": name, "run": "1", "round": number, "message_type": "train", "records": header}
        channel.write(link, channel.Frame("task", {**task, "run_config": {}}, body))
        frame = channel.read(link, 1 << 24)
        if frame.kind == "release":
            unpack(frame.header["payload"], frame.body)
            RELEASED.append(name)


if __name__ == "__main__":
    main()
