# SPDX-License-Identifier: Apache-2.0
"""The frame that both ends of a data link speak: gateway <-> guard and guard <-> trainer.

A link is one half of a stream socketpair that the supervisor made. A frame has a kind, a small JSON
header and a body of bytes (safetensors, see records.py). Nothing in it is ever executed or unpickled.
The reader is written for a hostile peer: every length is checked before memory is taken.
May import: errors.

Wire form, little-endian: magic "HB01" | u32 header length | u64 body length | header | body.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from homebound.errors import HomeboundError

MAGIC = b"HB01"
PREFIX = struct.Struct("<4sIQ")
# A header names the tensors of a model; the largest seen in practice (70 layers) is under 20 KiB.
MAX_HEADER = 1 << 20
# One recv() asks for at most this much, so that a large body does not starve other links of a loop.
CHUNK = 1 << 20
# asm-generic/socket.h, Linux 6.16; Python does not name it yet.
SO_PASSRIGHTS = 83


class ChannelError(HomeboundError):
    """The peer sent something that is no frame, or more than it may."""


class FrameTooLarge(ChannelError):
    """The peer announced more than it may send; none of it was read."""


class ChannelClosed(ChannelError):
    """The peer ended."""


@dataclass(frozen=True)
class Frame:
    """One message on a data link. ``header`` holds JSON values only, without the key ``kind``."""

    kind: str
    header: dict[str, Any] = field(default_factory=dict)
    body: bytes | bytearray | memoryview = b""


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new link. Where the kernel can, each refuses descriptors (SCM_RIGHTS) from the other."""
    ends = socket.socketpair()
    for end in ends:
        with suppress(OSError):  # an older kernel: then nobody asks for any, which is what recv(2) does
            end.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    return ends


def encode_header(frame: Frame) -> bytes:
    """Canonical bytes of a header: sorted keys, no spaces, ASCII, no NaN. ChannelError if too large."""
    text = json.dumps(
        {**frame.header, "kind": frame.kind}, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    data = text.encode("ascii")
    if len(data) > MAX_HEADER:
        raise ChannelError(f"a frame header of {len(data)} bytes is over the limit of {MAX_HEADER}")
    return data


def decode_header(data: bytes | bytearray) -> tuple[str, dict[str, Any]]:
    """Kind and header from their bytes. Raises ChannelError for anything that is not such a header."""
    try:
        header = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ChannelError("a frame header is not JSON") from error
    if not isinstance(header, dict) or not isinstance(header.get("kind"), str):
        raise ChannelError("a frame header is not an object with a kind")
    kind: str = header.pop("kind")
    return kind, header


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


class FrameReader:
    """Reads frames from a socket piece by piece, so that a slow peer never blocks a loop."""

    def __init__(self, sock: socket.socket, max_body: int) -> None:
        self._sock = sock
        self._max_body = max_body
        self._part = bytearray(PREFIX.size)
        self._filled = 0
        self._header: tuple[str, dict[str, Any]] | None = None
        self._body_length = -1

    def read_some(self) -> Frame | None:
        """Take what is there (one recv). A whole frame, or None if more is needed or nothing is there.

        Raises ChannelClosed when the peer ended, ChannelError when it broke the form.
        """
        while self._filled == len(self._part):
            frame = self._advance()
            if frame is not None:
                return frame
        view = memoryview(self._part)[self._filled : self._filled + CHUNK]
        try:
            count = self._sock.recv_into(view)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise ChannelClosed(f"the link broke: {error.strerror}") from error
        if count == 0:
            raise ChannelClosed("the peer ended")
        self._filled += count
        return self._advance() if self._filled == len(self._part) else None

    def _advance(self) -> Frame | None:
        """Step to the next part of the frame once the present one is complete."""
        if self._body_length < 0:
            magic, header_length, body_length = PREFIX.unpack(self._part)
            if magic != MAGIC:
                raise ChannelError("the peer does not speak frames")
            if header_length > MAX_HEADER or body_length > self._max_body:
                raise FrameTooLarge("a frame is over the size limit")
            self._body_length = body_length
            self._begin(header_length)
            return None
        if self._header is None:
            self._header = decode_header(self._part)
            self._begin(self._body_length)
            if self._body_length:
                return None
        kind, header = self._header
        frame = Frame(kind, header, self._part)
        self._header, self._body_length = None, -1
        self._begin(PREFIX.size)
        return frame

    def _begin(self, length: int) -> None:
        self._part = bytearray(length)
        self._filled = 0


def write(
    sock: socket.socket,
    frame: Frame,
    timeout: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Send a frame whole. ``timeout`` in seconds bounds the whole write; None waits for ever.

    Raises ChannelClosed if the peer ended or did not read in time.
    """
    header = encode_header(frame)
    deadline = None if timeout is None else clock() + timeout
    parts = (PREFIX.pack(MAGIC, len(header), len(frame.body)) + header, frame.body)
    before = sock.gettimeout()
    try:
        for part in parts:
            _write_part(sock, memoryview(part), deadline, clock)
    except TimeoutError as error:
        raise ChannelClosed("the peer does not read") from error
    except OSError as error:
        raise ChannelClosed(f"the link broke: {error.strerror}") from error
    finally:
        sock.settimeout(before)


def _write_part(
    sock: socket.socket, view: memoryview, deadline: float | None, clock: Callable[[], float]
) -> None:
    while view:
        if deadline is None:
            sock.settimeout(None)
        else:
            remaining = deadline - clock()
            if remaining <= 0:
                raise TimeoutError
            sock.settimeout(remaining)
        view = view[sock.send(view[:CHUNK]) :]


def read(sock: socket.socket, max_body: int) -> Frame:
    """Wait for one whole frame on a socket that nobody else reads. Errors as FrameReader.read_some."""
    sock.settimeout(None)
    reader = FrameReader(sock, max_body)
    while True:
        frame = reader.read_some()
        if frame is not None:
            return frame
