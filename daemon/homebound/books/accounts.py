# SPDX-License-Identifier: Apache-2.0
"""What the roles say they did, added up, and how it compares with the bytes that the kernel counted.

Pure: no clock, file or kernel. Reports come from guard and gateway and may be wrong on purpose, so one
that is malformed is counted and changes nothing else, and none can lower a sum. Used by the supervisor
(status) and the watcher (metrics). Imports nothing of ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

Report = Mapping[str, Any]

# A device has one task at a time; a few more wait in the outbox while the federation is away.
TASKS_KEPT = 64
# What a release may cost on the wire: base64 or a second framing would be 4/3, protobuf and the HTTP
# heads of a dozen object pushes are some kilobytes. A refusal sends a code and no payload.
OVERHEAD_RATIO = 1.25
OVERHEAD_BYTES = 65536
# Each array of a model is two objects for flwr 1.42, and each object a request of its own. Measured with 300
# small arrays: 1.9 kB of an array's requests to fetch it and 2.6 kB besides its content to send it back.
FETCH_BYTES, ARRAY_BYTES = 2048, 5120
# Requests that carry an answer to a task towards the federation.
PUSHES = ("push", "push_object")
# A declaration is sent before its bytes, but over another link than the kernel's counter is read by.
GRACE_SECONDS = 5.0

WORD = re.compile(r"[A-Za-z0-9_.:+/=-]{1,128}")
HINT_CHARACTERS = 200
# States in which a task has had its one decision.
_DECIDED = ("released", "refused", "acknowledged", "dropped")


def wire_bytes(payload_bytes: int, arrays: int = 0) -> int:
    """What a release of this size, in so many arrays, may cost as bytes of stream."""
    return int(payload_bytes * OVERHEAD_RATIO) + OVERHEAD_BYTES + arrays * ARRAY_BYTES


@dataclass(frozen=True)
class Task:
    """One task of the federation. ``state``: started, released, refused, acknowledged or dropped. Times are
    seconds of the caller's clock. ``attempts``: how often its answer was begun to be sent; ``begun_bytes``:
    where in ``pushed_bytes`` the latest of them started."""

    task: str
    round: int = 0
    kind: str = ""
    state: str = "started"
    code: str = ""
    started: float = 0.0
    finished: float | None = None
    payload_bytes: int = 0
    arrays: int = 0
    pushed_bytes: int = 0
    attempts: int = 1
    begun_bytes: int = 0

    @property
    def allowed_bytes(self) -> int:
        """How many pushed bytes its release explains; 0 for a push that names no task."""
        if not self.task:
            return 0
        return self.attempts * self.wire_bytes

    @property
    def wire_bytes(self) -> int:
        """What sending its release once may cost."""
        return wire_bytes(self.payload_bytes, self.arrays)

    @property
    def surplus_bytes(self) -> int:
        """Pushed bytes that no release explains."""
        return max(0, self.pushed_bytes - self.allowed_bytes)


@dataclass(frozen=True)
class RoleState:
    """Whether a role's process lives, and how often it was started again."""

    up: bool = False
    starts: int = 0

    @property
    def restarts(self) -> int:
        """Starts after the first."""
        return max(0, self.starts - 1)


@dataclass(frozen=True)
class Federation:
    """The gateway's word on its link. ``hint`` is free text of the gateway, for a person."""

    connected: bool = False
    node: str = ""
    reason: str = ""
    hint: str = ""
    since: float = 0.0


@dataclass(frozen=True)
class Accounts:
    """The sums. ``baseline``: the kernel's stream bytes when the accounts began; its counters outlive us."""

    baseline: int = 0
    declared_bytes: int = 0
    tasks: tuple[Task, ...] = ()
    forgotten_surplus_bytes: int = 0
    released: int = 0
    released_bytes: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    malformed: int = 0
    federation: Federation = field(default_factory=Federation)
    roles: Mapping[str, RoleState] = field(default_factory=dict)

    def task(self, name: str) -> Task | None:
        """The task of that name, if it is still kept."""
        return next((task for task in self.tasks if task.task == name), None)


@dataclass(frozen=True)
class Surplus:
    """A task whose pushes were larger than what was released for it."""

    task: str
    bytes: int
    reason: str


@dataclass(frozen=True)
class Unaccounted:
    """Bytes of the gateway that nobody explains: ``undeclared`` left without a word, ``surplus`` were
    declared but no release covers them. ``unsent``: declared and not (yet) on the wire."""

    bytes: int
    undeclared: int
    unsent: int
    surplus: tuple[Surplus, ...]


@dataclass(frozen=True)
class Standing:
    """Unaccounted bytes over time: ``confirmed`` never falls and holds only what stood for a while."""

    confirmed: int = 0
    since: float | None = None
    floor: int = 0


class _Malformed(Exception):
    """A report that lacks a field or has one of the wrong type."""


def fold(accounts: Accounts, report: Report, now: float) -> Accounts:
    """The accounts after one report. Unknown types belong to somebody else and change nothing.

    ``now``: seconds of a clock that never goes back.
    """
    kind = report.get("type")
    step = _STEPS.get(kind) if isinstance(kind, str) else None
    if step is None:
        return accounts
    try:
        return step(accounts, report, now)
    except _Malformed:
        return replace(accounts, malformed=accounts.malformed + 1)


def to_report(accounts: Accounts) -> dict[str, Any]:
    """Everything as one report that fold() takes: for a watcher that starts while the rest runs on."""
    return {"type": "accounts", **asdict(accounts)}


def reconcile(kernel_stream_bytes: int, accounts: Accounts) -> Unaccounted:
    """Compare the kernel's count of the gateway's TCP stream bytes with what was declared and released.

    A count that was read before the accounts can only be too small, never a false alarm.
    """
    difference = kernel_stream_bytes - accounts.baseline - accounts.declared_bytes
    surplus = [
        Surplus(task.task, task.surplus_bytes, _why(task)) for task in accounts.tasks if task.surplus_bytes
    ]
    if accounts.forgotten_surplus_bytes:
        surplus.append(Surplus("", accounts.forgotten_surplus_bytes, "earlier_tasks"))
    undeclared = max(0, difference)
    return Unaccounted(
        bytes=undeclared + sum(entry.bytes for entry in surplus),
        undeclared=undeclared,
        unsent=max(0, -difference),
        surplus=tuple(surplus),
    )


def settle(standing: Standing, level: int, now: float, grace: float = GRACE_SECONDS) -> Standing:
    """Confirm what was unaccounted at every look during ``grace`` seconds: their smallest level."""
    if level <= standing.confirmed:
        return Standing(standing.confirmed)
    if standing.since is None:
        return Standing(standing.confirmed, now, level)
    floor = min(standing.floor, level)
    if now - standing.since >= grace:
        return Standing(floor)
    return Standing(standing.confirmed, standing.since, floor)


def _why(task: Task) -> str:
    if not task.task:
        return "push_without_task"
    return "more_than_released" if task.payload_bytes else "nothing_released"


def _started(accounts: Accounts, report: Report, now: float) -> Accounts:
    name = _word(report, "task")
    fresh = Task(name, _number(report, "round"), _word(report, "kind"), started=now)
    known = accounts.task(name)
    # Begun again after a crash: what was pushed for it stays on its account.
    return _keep(accounts, replace(known, started=now) if known else fresh)


def _released(accounts: Accounts, report: Report, now: float) -> Accounts:
    task = _known(accounts, report, now)
    payload = _number(report, "payload_bytes")
    task = replace(task, arrays=max(_arrays(report), task.arrays))
    if task.state in _DECIDED:
        return _keep(accounts, replace(task, payload_bytes=max(payload, task.payload_bytes)))
    after = _keep(accounts, replace(task, state="released", payload_bytes=payload, finished=now))
    return replace(after, released=after.released + 1, released_bytes=after.released_bytes + payload)


def _released_before(accounts: Accounts, report: Report, now: float) -> Accounts:
    """Of an earlier life of the daemon, from the ledger: its update may still wait in the outbox."""
    task = _known(accounts, report, now)
    payload = max(_number(report, "payload_bytes"), task.payload_bytes)
    state = "released" if task.state == "started" else task.state
    arrays = max(_arrays(report), task.arrays)
    return _keep(accounts, replace(task, state=state, payload_bytes=payload, arrays=arrays))


def _refused(accounts: Accounts, report: Report, now: float) -> Accounts:
    code = _word(report, "code")
    task = _known(accounts, report, now)
    if task.state in _DECIDED:
        return accounts
    after = _keep(accounts, replace(task, state="refused", code=code, finished=now))
    if code not in after.refused and len(after.refused) >= TASKS_KEPT:
        raise _Malformed  # the set of codes is closed and small: this is somebody making them up
    return replace(after, refused={**after.refused, code: after.refused.get(code, 0) + 1})


def _declared(accounts: Accounts, report: Report, now: float) -> Accounts:
    sent = _number(report, "stream_bytes")
    request = _word(report, "request")
    name = _word(report, "task", empty=True)
    if request in PUSHES:
        task = accounts.task(name) or Task(name, started=now)
        accounts = _keep(accounts, replace(task, pushed_bytes=task.pushed_bytes + sent))
    return replace(accounts, declared_bytes=accounts.declared_bytes + sent)


def _unsent(accounts: Accounts, report: Report, now: float) -> Accounts:
    """Declared, but the link broke before it was sent. Taking back can only make more unaccounted."""
    del now
    back = _number(report, "stream_bytes")
    task = accounts.task(_word(report, "task", empty=True))
    if task:
        accounts = _keep(accounts, replace(task, pushed_bytes=max(0, task.pushed_bytes - back)))
    return replace(accounts, declared_bytes=max(0, accounts.declared_bytes - back))


def _acknowledged(accounts: Accounts, report: Report, now: float) -> Accounts:
    task = _known(accounts, report, now)
    if task.state != "released":
        return accounts  # what the federation acknowledged was a refusal
    after = _keep(accounts, replace(task, state="acknowledged"))
    return replace(after, acknowledged=after.acknowledged + 1)


def _dropped(accounts: Accounts, report: Report, now: float) -> Accounts:
    """The gateway gave a task or its answer up: the run is over, or nobody wants it any more."""
    task = _known(accounts, report, now)
    return _keep(accounts, replace(task, state="dropped", code=_word(report, "reason"), finished=now))


def _connected(accounts: Accounts, report: Report, now: float) -> Accounts:
    node = report.get("node")
    node = str(node) if isinstance(node, int) and not isinstance(node, bool) else _word(report, "node")
    return replace(accounts, federation=Federation(connected=True, node=node, since=now))


def _disconnected(accounts: Accounts, report: Report, now: float) -> Accounts:
    hint = report.get("hint", "")
    if not isinstance(hint, str):
        raise _Malformed
    hint = "".join(character for character in hint[:HINT_CHARACTERS] if character.isprintable())
    link = replace(accounts.federation, connected=False, reason=_word(report, "reason"), hint=hint, since=now)
    return replace(_again(accounts), federation=link)


def _role_up(accounts: Accounts, report: Report, now: float) -> Accounts:
    del now
    name = _word(report, "role")
    state = accounts.roles.get(name, RoleState())
    return replace(accounts, roles={**accounts.roles, name: RoleState(up=True, starts=state.starts + 1)})


def _role_down(accounts: Accounts, report: Report, now: float) -> Accounts:
    name = _word(report, "role")
    state = accounts.roles.get(name, RoleState())
    after = replace(accounts, roles={**accounts.roles, name: replace(state, up=False)})
    if name != "gateway":
        return after
    link = replace(after.federation, connected=False, reason="gateway_down", hint="", since=now)
    return replace(_again(after), federation=link)


def _restored(accounts: Accounts, report: Report, now: float) -> Accounts:
    """The whole, from to_report(). Only the supervisor says this; it takes it from no role."""
    del accounts, now
    parts = {name: report.get(name) for name in Accounts.__dataclass_fields__}
    try:
        tasks = tuple(Task(**task) for task in parts.pop("tasks") or ())
        roles = {name: RoleState(**state) for name, state in (parts.pop("roles") or {}).items()}
        link = Federation(**(parts.pop("federation") or {}))
        refused = dict(parts.pop("refused") or {})
    except (AttributeError, TypeError, ValueError) as error:
        raise _Malformed from error
    numbers = {name: _number(report, name) for name in parts}
    return Accounts(tasks=tasks, roles=roles, federation=link, refused=refused, **numbers)


_STEPS: Mapping[str, Callable[[Accounts, Report, float], Accounts]] = {
    "started": _started,
    "released": _released,
    "released_before": _released_before,
    "refused": _refused,
    "declare": _declared,
    "unsent": _unsent,
    "acknowledged": _acknowledged,
    "dropped": _dropped,
    "connected": _connected,
    "disconnected": _disconnected,
    "role_up": _role_up,
    "role_down": _role_down,
    "accounts": _restored,
}


def _again(accounts: Accounts) -> Accounts:
    """The link broke: an answer that was begun and that nobody acknowledged goes out once more."""
    tasks = tuple(
        replace(task, attempts=task.attempts + 1, begun_bytes=task.pushed_bytes)
        if task.pushed_bytes > task.begun_bytes and task.state in ("released", "refused")
        else task
        for task in accounts.tasks
    )
    return replace(accounts, tasks=tasks)


def _known(accounts: Accounts, report: Report, now: float) -> Task:
    """The task, or what the report says of one that began before we listened."""
    name = _word(report, "task")
    known = accounts.task(name)
    if known:
        return known
    number = _number(report, "round") if "round" in report else 0
    return Task(name, number, _word(report, "kind") if "kind" in report else "", started=now)


def _keep(accounts: Accounts, task: Task) -> Accounts:
    """With this task as the newest; of the oldest beyond TASKS_KEPT only the surplus is kept."""
    tasks = (*(other for other in accounts.tasks if other.task != task.task), task)
    dropped, kept = tasks[:-TASKS_KEPT], tasks[-TASKS_KEPT:]
    forgotten = accounts.forgotten_surplus_bytes + sum(old.surplus_bytes for old in dropped)
    return replace(accounts, tasks=kept, forgotten_surplus_bytes=forgotten)


def _arrays(report: Report) -> int:
    """Of how many arrays a release is; entries of an older version do not say."""
    return _number(report, "arrays") if "arrays" in report else 0


def _number(report: Report, key: str, sign: int = 1) -> int:
    """The number of that name without its sign, which must be ``sign``."""
    value = report.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value * sign < 0:
        raise _Malformed
    return value * sign


def _word(report: Report, key: str, empty: bool = False) -> str:
    value = report.get(key)
    if isinstance(value, str) and (WORD.fullmatch(value) or (empty and not value)):
        return value
    raise _Malformed
