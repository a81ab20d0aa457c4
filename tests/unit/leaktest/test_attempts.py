# SPDX-License-Identifier: Apache-2.0
"""The parts of attempts and receivers that need no sandbox: what is sent, what is said, what is heard."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homebound.leaktest import dns, icmp, nodes, quic
from homebound.leaktest.receiver import Listening, bound, listening, port_of
from homebound.leaktest.target import (
    Attempt,
    Killed,
    Target,
    errno_name,
    in_child,
    system_call,
    try_each,
    try_many,
)
from homebound.leaktest.victim import SIGNAL, victim

TOKEN = "0123456789abcdef" * 2
NOT_A_CALL = 1023  # no architecture has a system call of this number


def refuse(code: int) -> None:
    raise OSError(code, os.strerror(code))


def test_every_way_is_tried_and_the_first_refusal_is_the_error() -> None:
    ways = {"a": lambda: refuse(errno.EPERM), "b": lambda: refuse(errno.EACCES)}
    assert try_each(ways) == Attempt(sent=False, error="EPERM", detail="a EPERM, b EACCES")
    one = {**ways, "c": lambda: None, "d": lambda: refuse(errno.EROFS)}
    assert try_each(one) == Attempt(sent=True, error="", detail="a EPERM, b EACCES, c sent, d EROFS")


def test_a_fault_of_the_attempt_is_no_refusal() -> None:
    with pytest.raises(ZeroDivisionError):
        try_each({"a": lambda: (1 // 0, None)[1]})


def test_errors_have_names() -> None:
    assert errno_name(OSError(errno.EPERM, "")) == "EPERM"
    assert errno_name(TimeoutError("timed out")) == "ETIMEDOUT"
    assert errno_name(OSError("no number")) == "EIO"
    assert errno_name(OSError(9999, "")) == "9999"


def test_a_system_call_that_fails_raises() -> None:
    with pytest.raises(OSError, match="ENOSYS"):
        system_call(NOT_A_CALL)


@given(st.text(), st.dictionaries(st.text(), st.dictionaries(st.text(), st.integers() | st.text())))
def test_a_target_survives_its_json(token: str, places: dict[str, dict[str, int | str]]) -> None:
    target = Target(token, places)
    assert Target.from_json(target.to_json()) == target


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"token": "a"}', '{"token": "a", "places": 1}'])
def test_a_malformed_target_is_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Target.from_json(text)


def test_a_query_is_one_question_with_the_token_as_a_label() -> None:
    data = dns.query(TOKEN)
    assert struct.unpack("!6H", data[:12])[1:] == (0x0100, 1, 0, 0, 0)
    assert data[12:] == b"\x20" + TOKEN.encode() + b"\x04leak\x07invalid\x00" + struct.pack("!2H", 1, 1)
    with pytest.raises(ValueError, match="63 bytes"):
        dns.query("a" * 64)


@given(st.binary(max_size=100).map(lambda data: data + b"\0" * (len(data) % 2)))
def test_a_packet_with_its_checksum_sums_to_zero(payload: bytes) -> None:
    assert icmp.checksum(icmp.echo(payload)) == 0


def test_the_checksum_is_that_of_the_rfc() -> None:
    """RFC 1071, section 3: the words sum up to ddf2, and the checksum is its complement."""
    assert icmp.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2
    assert icmp.checksum(b"\x01") == icmp.checksum(b"\x01\x00")


@contextmanager
def tcp_listener() -> Iterator[Listening]:
    made = bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", listen=True)
    assert made is not None
    with listening({"port": port_of(made)}, listeners=[made]) as listener:
        yield listener


def send_pieces(listener: Listening, *pieces: str) -> None:
    with socket.create_connection(("127.0.0.1", listener.place["port"])) as made:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            made.sendall(piece.encode())


def test_a_token_in_pieces_is_heard() -> None:
    with tcp_listener() as listener:
        assert not listener.holds(TOKEN)
        send_pieces(listener, "noise", TOKEN[:7], TOKEN[7:])
        assert listener.holds(TOKEN, 2.0)
        assert listener.holds(TOKEN), "heard once, heard for good"
        assert not listener.holds(TOKEN[::-1])


def test_pieces_of_two_peers_are_not_put_together() -> None:
    with tcp_listener() as listener:
        for piece in (TOKEN[:7], TOKEN[7:]):
            send_pieces(listener, piece)
        assert not listener.holds(TOKEN, 0.1)
        send_pieces(listener, TOKEN)
        assert listener.holds(TOKEN, 2.0)


def test_a_pipe_is_read() -> None:
    reading, writing = os.pipe()
    with listening({}, readers=[reading]) as listener:
        assert not listener.holds(TOKEN)
        os.write(writing, TOKEN.encode())
        assert listener.holds(TOKEN, 2.0)
    os.close(writing)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(reading, 1)


def test_many_ways_are_told_in_few_words() -> None:
    ways = {str(number): lambda: refuse(errno.ENOENT) for number in range(3)}
    assert try_many(ways) == Attempt(sent=False, error="ENOENT", detail="3 x ENOENT")
    # That some are not there says nothing of the wall; that one was refused does.
    refused = {**ways, "x": lambda: refuse(errno.EPERM)}
    assert try_many(refused) == Attempt(sent=False, error="EPERM", detail="3 x ENOENT, 1 x EPERM")
    assert try_many({**refused, "y": lambda: None}).detail == "y sent, 3 x ENOENT, 1 x EPERM"
    assert try_many({**refused, "y": lambda: None}).sent


def test_what_a_child_met_is_told() -> None:
    in_child(lambda: None)
    with pytest.raises(OSError, match="Permission denied"):
        in_child(lambda: refuse(errno.EACCES))
    with pytest.raises(Killed) as caught:
        in_child(lambda: os.kill(os.getpid(), signal.SIGSYS))
    assert errno_name(caught.value) == "SIGSYS"
    # A fault of the attempt is no refusal, in a child neither.
    with pytest.raises(OSError) as fault:  # noqa: PT011 - its number is looked at
        in_child(lambda: (1 // 0, None)[1])
    assert errno_name(fault.value) not in errno.errorcode.values()


def test_an_initial_of_quic_is_full_and_has_the_token() -> None:
    data = quic.initial(TOKEN.encode())
    assert len(data) == 1200
    assert data[0] & 0xC0 == 0xC0
    assert struct.unpack("!I", data[1:5]) == (1,)
    assert TOKEN.encode() in data
    with pytest.raises(ValueError, match="does not fit"):
        quic.initial(bytes(1200))


def test_the_victim_tells_what_reached_it() -> None:
    with victim() as made:
        assert not made.holds(TOKEN)
        for at in range(0, len(TOKEN), 4):
            value = ctypes.c_void_p(int.from_bytes(TOKEN[at : at + 4].encode(), "big"))
            assert ctypes.CDLL(None).sigqueue(made.place["pid"], SIGNAL, value) == 0
        assert made.holds(TOKEN)


def test_nothing_to_open_is_said(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="this host has no RDMA device"):
        nodes.place([], ["/dev/x"], "RDMA device")
    assert nodes.place(["/dev/a"], ["/dev/b"], "x")["inside"] == {"paths": ["/dev/a", "/dev/b"]}
    assert nodes.present(["null", "no-such-*"]) == ["/dev/null"]
    (made,) = nodes.make_in_each([str(tmp_path)]).values()
    made()
    assert list(tmp_path.iterdir()) == []
