# SPDX-License-Identifier: Apache-2.0
"""Small messages between the supervisor and a role: JSON objects on a SOCK_SEQPACKET socketpair.

The trainer has no such link: its only way to speak is a frame to the guard (channel.py).
Only the supervisor passes file descriptors, and only to a role (SCM_RIGHTS, unix(7)).
May import: errors.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Sequence
from typing import Any

from homebound.errors import HomeboundError

# Fits in the default SO_SNDBUF (net.core.wmem_default 212992) of a sequenced-packet socket.
MAX_MESSAGE = 65536
MAX_FDS = 64
# Some 2000 reports; the kernel caps it at net.core.wmem_max without saying so. socket(7)
SEND_BUFFER = 1 << 20

# How long the kernel may take to close the link of a process that was killed.
LAST_WORDS_SECONDS = 1.0

Message = dict[str, Any]


class ControlClosed(HomeboundError):
    """The other end is gone."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new link; record boundaries are kept. A peer that is slow for a second loses nothing."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return left, right


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message. Raises ControlClosed if the other end is gone, ValueError if it is too large."""
    data = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    if len(data) > MAX_MESSAGE:
        raise ValueError(f"a control message of {len(data)} bytes is over the limit of {MAX_MESSAGE}")
    try:
        if fds:
            socket.send_fds(sock, [data], list(fds))
        else:
            sock.send(data)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise ControlClosed("the other end of a control link is gone") from error


def receive(sock: socket.socket) -> tuple[Message, list[int]]:
    """Take one message and the descriptors with it. BlockingIOError when nothing is there.

    Raises ControlClosed at the end of the link or when the message is no JSON object.
    """
    try:
        data, fds, flags, _ = socket.recv_fds(sock, MAX_MESSAGE, MAX_FDS)
    except ConnectionResetError as error:
        raise ControlClosed("the other end of a control link is gone") from error
    if not data:
        raise ControlClosed("the other end of a control link is gone")
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            os.close(fd)
        raise ControlClosed("the other end of a control link sent no message of ours")
    return message, list(fds)


def last_words(sock: socket.socket, seconds: float = LAST_WORDS_SECONDS) -> list[Message]:
    """All that a process, which was killed, had said and nobody heard; up to the end of its link."""
    said: list[Message] = []
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    while poller.poll(seconds * 1000):
        try:
            message, fds = receive(sock)
        except (ControlClosed, BlockingIOError):
            break
        for fd in fds:
            os.close(fd)
        said.append(message)
    return said
