# SPDX-License-Identifier: Apache-2.0
"""One end of a data link that never blocks: frames come and go piece by piece.

The trainer may be hostile and the gateway may be taken over, so neither may make the guard wait in the
middle of a frame while the other, or the supervisor, wants something. May import: channel.
"""

from __future__ import annotations

import socket
from collections import deque

from homebound import channel
from homebound.channel import Frame, FrameReader


class Link:
    """A stream socket on which frames are read and queued for writing. Owns the socket."""

    def __init__(self, sock: socket.socket, max_body: int) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._reader = FrameReader(sock, max_body)
        self._outgoing: deque[memoryview] = deque()

    @property
    def is_writing(self) -> bool:
        """Whether something is still queued."""
        return bool(self._outgoing)

    def expect(self, max_body: int) -> None:
        """From the next frame on allow a body of ``max_body`` bytes. Only between two frames."""
        self._reader = FrameReader(self.sock, max_body)

    def read(self) -> Frame | None:
        """A frame if one is complete now. Raises as FrameReader.read_some()."""
        return self._reader.read_some()

    def queue(self, frame: Frame) -> None:
        """Put a frame behind those that wait, and send what can be sent at once.

        The frame's body is not copied, so it must not change. Raises ChannelError for a header that is
        too large; that the peer ended is only seen by read().
        """
        header = channel.encode_header(frame)
        prefix = channel.PREFIX.pack(channel.MAGIC, len(header), len(frame.body))
        self._outgoing.append(memoryview(prefix + header))
        if frame.body:
            self._outgoing.append(memoryview(frame.body))
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes now. What a peer that ended will not read is dropped."""
        while self._outgoing:
            view = self._outgoing[0]
            try:
                sent = self.sock.send(view[: channel.CHUNK], socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._outgoing.clear()
                return
            if sent == len(view):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = view[sent:]

    def close(self) -> None:
        self._outgoing.clear()
        self.sock.close()
