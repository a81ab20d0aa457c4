# SPDX-License-Identifier: Apache-2.0
"""Take the ELF kernel out of a bzImage: python kernel.py VMLINUZ VMLINUX.

Source: Documentation/arch/x86/boot.rst (setup_sects, payload_offset, payload_length).
"""

from __future__ import annotations

import lzma
import struct
import subprocess
import sys
import zlib
from pathlib import Path

SECTOR = 512
SETUP_SECTORS, PAYLOAD = 0x1F1, 0x248
DEFAULT_SETUP_SECTORS = 4


def unpack(image: bytes) -> bytes:
    """The payload, uncompressed. ValueError when it is none that we know."""
    sectors = image[SETUP_SECTORS] or DEFAULT_SETUP_SECTORS
    offset, length = struct.unpack_from("<II", image, PAYLOAD)
    start = (sectors + 1) * SECTOR + offset
    payload = image[start : start + length]
    if payload.startswith(b"\xfd7zXZ\0"):
        kernel = lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(payload)
    elif payload.startswith(b"\x1f\x8b"):
        kernel = zlib.decompressobj(31).decompress(payload)
    elif payload.startswith(b"\x28\xb5\x2f\xfd"):
        kernel = _through(["zstd", "-dcq"], payload)
    elif payload.startswith(b"\x02\x21\x4c\x18"):
        kernel = _through(["lz4", "-dcq"], payload)
    else:
        raise ValueError(f"unknown compression: {payload[:6].hex()}")
    if not kernel.startswith(b"\x7fELF"):
        raise ValueError("what was packed is no ELF file")
    return kernel


def _through(words: list[str], payload: bytes) -> bytes:
    """What a program makes of it, without the length that a kernel's build writes behind it."""
    return subprocess.run(words, input=payload[:-4], stdout=subprocess.PIPE, check=False).stdout


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(unpack(Path(sys.argv[1]).read_bytes()))
