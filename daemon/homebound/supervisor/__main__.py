# SPDX-License-Identifier: Apache-2.0
"""`python -m homebound.supervisor`: the daemon's first process, started by `homebound run`.

May import: errors, settings, rooms.instance, supervisor.daemon.
"""

from __future__ import annotations

import argparse
import os
import sys

from homebound import settings
from homebound.errors import HomeboundError, InternalError
from homebound.rooms import instance
from homebound.supervisor.daemon import Supervisor


def main() -> int:
    """``python -m homebound.supervisor --settings-fd N``: started by ``homebound run``, as root."""
    parser = argparse.ArgumentParser(prog="homebound-supervisor")
    parser.add_argument("--settings-fd", type=int, required=True)
    parser.add_argument("--config", default="")
    parser.add_argument("--debug", action="store_true")
    arguments = parser.parse_args()
    with os.fdopen(arguments.settings_fd, "rb") as file:
        config = settings.from_json(file.read())
    try:
        place = instance.locate(config)
        holder = instance.lock(place)
        try:
            return Supervisor(config, place, config_file=arguments.config).run()
        finally:
            instance.remove_run(place)
            os.close(holder)
    except HomeboundError as error:
        return _fail(error)
    except Exception as error:  # the one place where a bug of the daemon becomes a line
        if arguments.debug:
            raise
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return _fail(InternalError(text, "run `homebound --debug run` and report what it says"))


def _fail(error: HomeboundError) -> int:
    hint = f"\n  hint: {error.hint}" if error.hint else ""
    sys.stderr.write(f"homebound: {error.message}{hint}\n")
    return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
