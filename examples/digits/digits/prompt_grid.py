# SPDX-License-Identifier: Apache-2.0
"""A Grid that asks for replies more often than Flower's own, which sleeps three seconds in between."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid


class PromptGrid(Grid):
    """The given grid, asked every ``pause`` seconds."""

    def __init__(self, grid: Grid, pause: float) -> None:
        self._grid = grid
        self._pause = pause

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send, then collect replies until all are here or ``timeout`` seconds have passed."""
        missing = set(self.push_messages(messages))
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while missing and (deadline is None or time.monotonic() < deadline):
            time.sleep(self._pause)
            arrived = list(self.pull_messages(missing))
            missing -= {message.metadata.reply_to_message_id for message in arrived}
            replies += arrived
        return replies
