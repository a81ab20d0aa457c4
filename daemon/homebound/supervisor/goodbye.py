# SPDX-License-Identifier: Apache-2.0
"""The daemon's end: the trainer first, then a goodbye of the gateway, then roles, cgroups and programs.

Every step is taken, whatever became of those before it, and none hides the error that brought us here.
May import: errors, events, rooms.instance, journal, supervisor.reconciling, supervisor.daemon (its
type).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from homebound import journal
from homebound.errors import HomeboundError
from homebound.events import Role
from homebound.rooms import instance
from homebound.supervisor import reconciling

if TYPE_CHECKING:
    from homebound.supervisor.daemon import Supervisor

# How long the roles have to say goodbye. The gateway tells the federation within 2 s.
GOODBYE_SECONDS = 2.5


def end_all(daemon: Supervisor) -> bool:
    """Leave no process, cgroup or pin behind; False, and a line in the journal, for what could not go."""
    daemon.notify.stopping()
    daemon.life.state = "stopped"
    daemon.loop.drop_steps()  # nothing is started again
    steps: list[Callable[[], None]] = [
        lambda: daemon.end(Role.TRAINER),
        lambda: _await_gateway(daemon),
        lambda: daemon.end(Role.GATEWAY),
        lambda: daemon.end(Role.GUARD),
        lambda: reconciling.at_the_end(daemon),
        lambda: daemon.end(Role.WATCHER),
        lambda: daemon.sum_up(all_of_them=True),
        lambda: daemon.uplinks.stop() if daemon.uplinks else None,
        lambda: instance.remove_tree(daemon.place),
        lambda: daemon.walls.remove() if daemon.walls else None,
    ]
    failed = [step for step in steps if not _take(step)]
    journal.stopped(daemon.config.name)
    return not failed


def _take(step: Callable[[], None]) -> bool:
    try:
        step()
    except (HomeboundError, OSError) as error:
        journal.role_failed("supervisor", f"cannot tidy up: {error}")
        return False
    return True


def _await_gateway(daemon: Supervisor) -> None:
    """Let it say goodbye; turn on until it ended by itself, or for as long as it may take."""
    if not daemon.roster.tell(Role.GATEWAY, {"type": "stop"}):
        return
    deadline = daemon.clock() + GOODBYE_SECONDS
    while Role.GATEWAY in daemon.roster.members and (left := deadline - daemon.clock()) > 0:
        daemon.loop.turn(left)
