# SPDX-License-Identifier: Apache-2.0
"""Code left where others run it: a .pth, a cron job, a unit, a login script, a key that opens the door.

A file without a name is made in each such folder and closed: it proves the right and leaves nothing.
``attempt`` runs inside the sandbox. Imports the standard library only. Source: open(2), O_TMPFILE.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homebound.leaktest.nodes import make_in_each
from homebound.leaktest.receiver import Deaf
from homebound.leaktest.target import Attempt, Target, try_many

NUMBER = 28
NAME = "planted_code"
RULES = ("file_outside",)
WALLS = ("namespaces", "landlock", "users")
DELIVERS = False

FOLDERS = tuple(
    """
    /etc /etc/cron.d /etc/systemd/system /etc/profile.d /etc/ld.so.conf.d /etc/sudoers.d /usr/bin
    /usr/local/bin /usr/lib /usr/lib/systemd/system /var/spool/cron /root /home /opt
    """.split()
)


def attempt(target: Target) -> Attempt:
    """Make a file in each folder of the list, and in those that this Python loads modules from."""
    modules = [path for path in sys.path if Path(path).is_dir()]
    own = str(Path(__file__).parent)
    return try_many(make_in_each(dict.fromkeys([*target.place(NAME)["folders"], *modules, own])))


@contextmanager
def receiver(_folder: Path) -> Iterator[Deaf]:
    """Name the folders of this host."""
    yield Deaf(place={"folders": [folder for folder in FOLDERS if Path(folder).is_dir()]})
