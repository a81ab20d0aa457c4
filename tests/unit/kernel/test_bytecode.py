# SPDX-License-Identifier: Apache-2.0
"""Instructions as bcc leaves them: maps by number, shapes told by functions that are never loaded."""

from __future__ import annotations

import struct

import pytest

from homebound.errors import InternalError
from homebound.kernel import bytecode
from homebound.kernel.bytecode import SETTINGS_NUMBER, Code, Object, Shape

EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)


def constant(source: int, low: int, high: int = 0) -> bytes:
    return struct.pack("<BBhiBBhi", 0x18, source << 4 | 1, 0, low, 0, 0, 0, high)


def test_numbers_become_descriptors() -> None:
    """Maps and the settings' value; a constant of the program's own is left alone."""
    code = Code("hb_x", "raw_tp/x", constant(1, 7) + constant(2, SETTINGS_NUMBER, 4) + constant(0, 7) + EXIT)
    linked = bytecode.link(code, {7: 33, SETTINGS_NUMBER: 34})
    assert linked == constant(1, 33) + constant(2, 34, 4) + constant(0, 7) + EXIT


def test_a_map_without_a_shape_is_our_bug() -> None:
    with pytest.raises(InternalError, match="hb_x"):
        bytecode.link(Code("hb_x", "raw_tp/x", constant(1, 7) + EXIT), {8: 33})


def test_second_halves_are_no_instructions() -> None:
    """The upper half of a 64-bit constant may look like anything."""
    code = constant(0, 1, 0x18) + EXIT
    assert [opcode for _, opcode, _, _ in bytecode.words(code)] == [0x18, 0x95]


def test_shapes_are_told_in_any_order() -> None:
    """The compiler may order the constants as it likes; the tag tells."""
    values = {1: 3, 2: 6, 3: 256, 4: 0, 5: 4, 6: 24, 7: 0}
    told = b"".join(constant(tag, values[tag]) for tag in (4, 1, 7, 3, 2, 6, 5)) + EXIT
    assert bytecode.read_shape("traffic", told) == Shape("traffic", 3, 6, 256, 0, 4, 24, 0)
    with pytest.raises(InternalError, match="traffic"):
        bytecode.read_shape("traffic", constant(1, 3) + EXIT)


def test_json_and_back() -> None:
    shape = Shape("traffic", 3, 6, 256, 0, 4, 24, 0)
    objects = (Object("egress", "GPL", (shape,), (Code("hb_x", "raw_tp/x", EXIT),)),)
    assert bytecode.from_json(bytecode.to_json(objects)) == objects
