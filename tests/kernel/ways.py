# SPDX-License-Identifier: Apache-2.0
"""Every way to hand bytes to a connected socket. A way takes the socket and pieces, and sends them in order.

On a datagram socket each piece is one call and one datagram (or one UDP_SEGMENT batch). Source: the manual
page of each call, MSG_ZEROCOPY in Documentation/networking/msg_zerocopy.rst, io_uring(7).
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import tempfile
from collections.abc import Callable, Mapping

from homebound.leaktest.io_uring import SEND, Ring

Way = Callable[[socket.socket, list[bytes]], None]
SO_ZEROCOPY, MSG_ZEROCOPY = 60, 0x4000000


def whole(send: Callable[[bytes], int], piece: bytes) -> None:
    """A stream may take less than it was offered."""
    while piece:
        piece = piece[send(piece) :]


def by_write(client: socket.socket, pieces: list[bytes]) -> None:
    for piece in pieces:
        whole(lambda rest: os.write(client.fileno(), rest), piece)


def by_writev(client: socket.socket, pieces: list[bytes]) -> None:
    for piece in pieces:
        whole(lambda rest: os.writev(client.fileno(), [rest[:777], rest[777:]]), piece)


def by_send(client: socket.socket, pieces: list[bytes]) -> None:
    for piece in pieces:
        whole(client.send, piece)


def by_sendto(client: socket.socket, pieces: list[bytes]) -> None:
    peer = client.getpeername()
    for piece in pieces:
        whole(lambda rest: client.sendto(rest, peer), piece)


def by_sendmsg(client: socket.socket, pieces: list[bytes]) -> None:
    for piece in pieces:
        whole(lambda rest: client.sendmsg([rest[:99], rest[99:]]), piece)


def by_sendmmsg(client: socket.socket, pieces: list[bytes]) -> None:
    """All pieces in one call after another, as many as it takes."""
    libc = ctypes.CDLL(None, use_errno=True)
    while pieces:
        kept = [ctypes.create_string_buffer(piece, len(piece)) for piece in pieces]
        vectors = [
            ctypes.create_string_buffer(struct.pack("QQ", ctypes.addressof(text), len(text))) for text in kept
        ]
        # struct mmsghdr: name, its length, vectors, their number, control, its length, flags; the result.
        heads = b"".join(struct.pack("QIxxxxQQQQixxxxIxxxx", 0, 0, ctypes.addressof(vector), 1, 0, 0, 0, 0)
                         for vector in vectors)  # fmt: skip
        table = ctypes.create_string_buffer(heads, len(heads))
        count = libc.sendmmsg(client.fileno(), table, len(pieces), 0)
        assert count > 0, os.strerror(ctypes.get_errno())
        (sent,) = struct.unpack_from("I", table, 64 * (count - 1) + 56)
        left = pieces[count - 1][sent:]
        pieces = ([left] if left else []) + pieces[count:]


def by_sendfile(client: socket.socket, pieces: list[bytes]) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"".join(pieces))
        file.flush()
        at = 0
        for piece in pieces:
            end = at + len(piece)
            while at < end:
                at += os.sendfile(client.fileno(), file.fileno(), at, end - at)


def by_splice(client: socket.socket, pieces: list[bytes]) -> None:
    reading, writing = os.pipe()
    for piece in pieces:
        moved = os.write(writing, piece)
        assert moved == len(piece)
        while moved:
            moved -= os.splice(reading, client.fileno(), moved)
    os.close(reading)
    os.close(writing)


def by_zerocopy(client: socket.socket, pieces: list[bytes]) -> None:
    client.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    for piece in pieces:
        rest = memoryview(piece)  # the kernel reads it later, so no copy may be made and freed
        while rest:
            rest = rest[client.send(rest, MSG_ZEROCOPY) :]


def with_more(client: socket.socket, pieces: list[bytes]) -> None:
    """MSG_MORE: the first half of each piece is held back for the second."""
    for piece in pieces:
        half = len(piece) // 2
        whole(lambda rest: client.send(rest, socket.MSG_MORE), piece[:half])
        whole(client.send, piece[half:])


def by_ring(client: socket.socket, pieces: list[bytes]) -> None:
    ring = Ring()
    for piece in pieces:
        while piece:
            data = ctypes.create_string_buffer(piece, len(piece))
            piece = piece[ring.run(SEND, client.fileno(), 0, ctypes.addressof(data), len(piece)) :]
    ring.close()


WAYS: Mapping[str, Way] = {
    "write": by_write,
    "writev": by_writev,
    "send": by_send,
    "sendto": by_sendto,
    "sendmsg": by_sendmsg,
    "sendmmsg": by_sendmmsg,
    "sendfile": by_sendfile,
    "splice": by_splice,
    "zerocopy": by_zerocopy,
    "more": with_more,
    "io_uring": by_ring,
}
