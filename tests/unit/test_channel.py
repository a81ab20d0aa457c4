# SPDX-License-Identifier: Apache-2.0
"""Frames: whole ones arrive whole however they are cut, and no peer can make the reader take memory."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebound import channel
from homebound.channel import MAGIC, MAX_HEADER, PREFIX, ChannelClosed, ChannelError, Frame, FrameReader

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture
def link() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def read_all(reader: FrameReader, limit: int = 10_000) -> Frame:
    for _ in range(limit):
        frame = reader.read_some()
        if frame is not None:
            return frame
    raise AssertionError("no frame came")


@given(
    kind=st.text(min_size=1, max_size=10),
    header=st.dictionaries(st.text(max_size=5).filter(lambda key: key != "kind"), JSON_VALUES, max_size=3),
    body=st.binary(max_size=300),
    cut=st.integers(1, 64),
)
@settings(max_examples=60, deadline=None)
def test_a_frame_arrives_whole_however_it_is_cut(
    kind: str, header: dict[str, object], body: bytes, cut: int
) -> None:
    left, right = socket.socketpair()
    with left, right:
        right.setblocking(False)
        data = b"".join(encoded(Frame(kind, header, body)))
        reader, frames = FrameReader(right, 1000), []
        for start in range(0, len(data), cut):
            left.sendall(data[start : start + cut])
            for _ in range(4):  # prefix, header, body, and the empty part of one of them
                frame = reader.read_some()
                if frame is not None:
                    frames.append(frame)
        assert [(frame.kind, frame.header, bytes(frame.body)) for frame in frames] == [(kind, header, body)]


def encoded(frame: Frame) -> tuple[bytes, bytes, bytes]:
    header = channel.encode_header(frame)
    return PREFIX.pack(MAGIC, len(header), len(frame.body)), header, bytes(frame.body)


def test_two_frames_in_a_row_are_two_frames(link: tuple[socket.socket, socket.socket]) -> None:
    left, right = link
    channel.write(left, Frame("one", {"a": 1}, b"xyz"))
    channel.write(left, Frame("two"))
    reader = FrameReader(right, 10)
    assert read_all(reader) == Frame("one", {"a": 1}, bytearray(b"xyz"))
    assert read_all(reader).kind == "two"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        PREFIX.pack(b"HB02", 2, 0) + b"{}",
        PREFIX.pack(MAGIC, MAX_HEADER + 1, 0),
        PREFIX.pack(MAGIC, 2, 1001),
        PREFIX.pack(MAGIC, 2, 2**63) + b"{}",
        PREFIX.pack(MAGIC, 2, 0) + b"{}",
        PREFIX.pack(MAGIC, 2, 0) + b"[]",
        PREFIX.pack(MAGIC, 12, 0) + b'{"kind": 1}\n',
        PREFIX.pack(MAGIC, 26, 0) + b'{"kind": "x", "loss": NaN}',
        PREFIX.pack(MAGIC, 60000, 0) + b"[" * 60000,
        PREFIX.pack(MAGIC, 4, 0) + b"\xff\xfe\x00\x01",
    ],
)
def test_what_is_no_frame_is_refused(link: tuple[socket.socket, socket.socket], sent: bytes) -> None:
    left, right = link
    left.sendall(sent)
    with pytest.raises(ChannelError) as refusal:
        read_all(FrameReader(right, 1000))
    assert not isinstance(refusal.value, ChannelClosed)


def test_a_good_frame_passes_where_the_bad_ones_do_not(link: tuple[socket.socket, socket.socket]) -> None:
    left, right = link
    left.sendall(PREFIX.pack(MAGIC, 12, 3) + b'{"kind":"x"}' + b"abc")
    assert bytes(read_all(FrameReader(right, 1000)).body) == b"abc"


def test_a_peer_that_ends_is_told_from_one_that_breaks_the_form(
    link: tuple[socket.socket, socket.socket],
) -> None:
    left, right = link
    left.sendall(PREFIX.pack(MAGIC, 12, 3) + b'{"ki')
    left.close()
    with pytest.raises(ChannelClosed):
        read_all(FrameReader(right, 1000))


def test_a_peer_that_does_not_read_cannot_hold_the_writer(link: tuple[socket.socket, socket.socket]) -> None:
    left, _ = link
    begin = time.monotonic()
    with pytest.raises(ChannelClosed):
        channel.write(left, Frame("big", {}, bytes(10_000_000)), timeout=0.2)
    assert time.monotonic() - begin < 5


def test_a_large_body_crosses_with_a_slow_reader(link: tuple[socket.socket, socket.socket]) -> None:
    left, right = link
    body = bytes(range(256)) * 20_000
    writer = threading.Thread(target=channel.write, args=(left, Frame("big", {}, body), 20.0))
    writer.start()
    assert bytes(channel.read(right, len(body)).body) == body
    writer.join()


def test_header_bytes_depend_on_the_values_alone() -> None:
    one = channel.encode_header(Frame("x", {"b": 1, "a": [1, 2]}))
    two = channel.encode_header(Frame("x", {"a": [1, 2], "b": 1}))
    assert one == two == b'{"a":[1,2],"b":1,"kind":"x"}'
    assert json.loads(one)["kind"] == "x"


def test_a_header_that_is_too_large_is_not_sent(link: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(ChannelError):
        channel.write(link[0], Frame("x", {"a": "y" * (MAX_HEADER + 1)}))
