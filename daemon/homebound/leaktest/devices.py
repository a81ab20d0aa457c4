# SPDX-License-Identifier: Apache-2.0
"""Devices that speak to the world: serial lines, USB, radio, LEDs, sound, cameras, screens, TPM, memory.

The control opens only nodes that do nothing when they are opened. A node of one's own making is tried, too.
``attempt`` runs inside the sandbox. Imports the standard library only.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.nodes import open_each, place, present
from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, try_many

NUMBER = 35
NAME = "devices"
RULES = ("file_outside", "namespace")
WALLS = ("namespaces", "users")
DELIVERS = False

# Opening these starts nothing: no line goes up, no camera wakes, no watchdog counts.
SAFE = tuple(
    """
    tty1 vcs rfkill uinput uhid hidraw* input/event* snd/seq snd/controlC* i2c-* spidev* gpiochip*
    loop-control vga_arbiter hwrng fuse
    """.split()
)
EVERY = tuple(
    """
    ttyS0 ttyUSB0 ttyACM0 ttyAMA0 ttyGS0 rfcomm0 bus/usb/001/001 video0 media0 lirc0 dri/card0 fb0 nvidia0
    nvidiactl watchdog tpm0 tpmrm0 mem port console ptp0 mei0 hpet nvram kvm cec0 usb/lp0 lp0 parport0
    dma_heap/system udmabuf sg0
    """.split()
)
# /dev/null by number (null(4)): whoever may make and open this may make and open any.
NULL = os.makedev(1, 3)


def attempt(target: Target) -> Attempt:
    """Open each node, and make one."""
    return try_many({**open_each(target.place(NAME)["paths"]), "a node of our own": make_node})


def make_node() -> None:
    """Make a device node in scratch, open it, and remove it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "node")
        os.mknod(path, stat.S_IFCHR | 0o600, NULL)
        os.close(os.open(path, os.O_WRONLY))


@contextmanager
def receiver(_folder: Path) -> Iterator[Deaf]:
    """Name the harmless ones of this host for the control, all kinds for the sandbox."""
    yield Deaf(place=place(present(SAFE), [f"/dev/{name}" for name in EVERY], "such device"))
