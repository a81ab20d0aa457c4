# SPDX-License-Identifier: Apache-2.0
"""The first Python of every role: close the last wall, then become the role.

Run inside bubblewrap, after the identity was dropped and the seccomp filter loaded. Restricts itself by
Landlock, makes itself not dumpable, and runs the role's module. Starts often: imports nearly nothing.
May import: kernel.landlock.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import sys

from homebound.kernel import landlock

PR_SET_DUMPABLE = 4


def main() -> None:
    """``enter PATHS-JSON MODULE ARGUMENT...``: PATHS-JSON has the fields of landlock.Paths."""
    paths = landlock.Paths(**{key: tuple(value) for key, value in json.loads(sys.argv[1]).items()})
    landlock.restrict(paths)
    # No core, no attaching by others of the same user. prctl(2)
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    module = sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    os.environ["HOMEBOUND_LANDLOCK"] = str(landlock.abi())
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
