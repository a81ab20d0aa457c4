# SPDX-License-Identifier: Apache-2.0
"""The gateway's life: fetch a task, hand it to the guard, wait, send what the guard released.

One loop, one thread; it wakes for the supervisor, the guard, the next heartbeat and the next poll.
Sees tasks and released updates, no raw data; reaches one address. A lost federation is tried for ever, with
growing pauses and a reason told to the supervisor. May import: channel, control, records, errors, gateway.
"""

from __future__ import annotations

import logging
import math
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from homebound import channel, control
from homebound.gateway import messages
from homebound.gateway.federation import Federation
from homebound.gateway.messages import Assignment
from homebound.gateway.node import Session
from homebound.gateway.outbox import Outbox, OutboxError, Parcel
from homebound.gateway.trouble import FederationError, Trouble
from homebound.gateway.wire import Interrupted
from homebound.records import RecordsError, RefusalCode, pack, unpack

LOG = logging.getLogger("homebound.gateway")
# Polls are quick right after something happened and slow down to poll_seconds: a 20th of the time since.
QUICK_POLL_SECONDS, POLL_RATIO = 0.1, 20.0
RETRY_SECONDS = 0.5
# A session that is still held ends within a minute, so it is worth asking more often than a dead server.
BUSY_RETRY_SECONDS = 5.0
RUN_CHECK_SECONDS = 5.0
LEAVE_SECONDS = 1.5
GUARD_READ_SECONDS = 60.0
# What is answered and told when a task cannot even be handed to the guard.
REFUSALS = {Trouble.MALFORMED: RefusalCode.MALFORMED, Trouble.TOO_LARGE: RefusalCode.TOO_LARGE}


@dataclass(frozen=True)
class Links:
    """The sockets to the supervisor (sequenced packets) and to the guard (frames)."""

    supervisor: socket.socket
    guard: socket.socket


@dataclass(frozen=True)
class Terms:
    """What the operator set: the approved app, the pace, the size limit."""

    fab_sha256: str
    poll_seconds: float
    retry_max_seconds: float
    max_update_bytes: int


@dataclass
class Work:
    """The one task in hand. ``sent``: the guard has it. ``void``: nobody wants the answer any more."""

    given: Assignment
    round: int = 0
    sent: bool = False
    void: bool = False
    next_check: float = 0.0


@dataclass
class State:
    """What changes while the gateway runs; times by its clock."""

    connected: bool = False
    failures: int = 0
    retry_at: float = 0.0
    active_at: float = 0.0
    poll_at: float = 0.0
    work: Work | None = None
    waiting: list[str] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)
    unsaved: dict[str, Parcel] = field(default_factory=dict)
    # Another address was named, and the supervisor has not opened it yet.
    parked: bool = False


class Gateway:
    """One device's gateway. ``jitter`` gives numbers in [0, 1) that spread the retries of many devices."""

    def __init__(
        self,
        federation: Federation,
        outbox: Outbox,
        session: Session,
        links: Links,
        terms: Terms,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._federation = federation
        self._outbox = outbox
        self._session = session
        self._links = links
        self._terms = terms
        self._clock = clock
        self._jitter = jitter
        self._reader = channel.FrameReader(links.guard, terms.max_update_bytes + (1 << 20))
        waiting = outbox.waiting()
        self._state = State(waiting=waiting, tried=set(waiting))
        links.guard.setblocking(False)

    def run(self) -> None:
        """Work until the supervisor says stop, then end the session.

        Raises ControlClosed if the supervisor is gone, ChannelError if the guard is.
        """
        self._tell({"type": "ready"})
        while not self._stopped():
            pause = self._step()
            self._await(pause)
        if self._state.connected:
            self._federation.leave(LEAVE_SECONDS)
            self._session.keep(0)

    def _step(self) -> float:
        """Do what is due; seconds until the next thing is."""
        state, now = self._state, self._clock()
        try:
            if state.parked:
                return math.inf
            if not state.connected:
                if now < state.retry_at:
                    return state.retry_at - now
                self._connect()
            due = self._federation.beat()
            self._deliver()
            due = min(due, self._attend())
            if state.waiting:
                return 0.0
        except Interrupted:
            return 0.0
        except FederationError as error:
            due = self._lose(error)
        return max(0.0, due - self._clock())

    def _connect(self) -> None:
        node = self._federation.connect(self._session.node())
        state = self._state
        state.connected, state.failures = True, 0
        state.active_at = self._clock()
        state.poll_at = 0.0
        if state.work is not None and state.work.given.node != node:
            self._void(state.work, Trouble.FORGOTTEN)
        self._session.keep(node)
        self._tell({"type": "connected", "node": str(node)})

    def _lose(self, error: FederationError) -> float:
        """Note that the federation is lost; when to try again."""
        state = self._state
        state.connected = False
        state.failures += 1
        pause = RETRY_SECONDS * 2.0 ** min(state.failures - 1, 20)
        longest = BUSY_RETRY_SECONDS if error.code is Trouble.KEY_BUSY else self._terms.retry_max_seconds
        pause = min(pause, longest) * (0.5 + 0.5 * self._jitter())
        if state.failures == 1 and error.code in (Trouble.GONE, Trouble.FORGOTTEN):
            pause = 0.0
        state.retry_at = self._clock() + pause
        self._tell(
            {"type": "disconnected", "reason": str(error.code), "hint": f"{error.message}: {error.hint}"}
        )
        return state.retry_at

    def _attend(self) -> float:
        """Go on with the task in hand, or ask for one; when to look again."""
        state = self._state
        if state.work is None:
            if self._clock() < state.poll_at:
                return state.poll_at
            given = self._federation.pull()
            now = self._clock()
            if given is None:
                quiet = (now - state.active_at) / POLL_RATIO
                state.poll_at = now + min(max(quiet, QUICK_POLL_SECONDS), self._terms.poll_seconds)
                return state.poll_at
            state.active_at = now
            state.work = Work(given)
            self._keep(self._outbox.open, messages.no_update(given, 0))
        work = state.work
        try:
            if not work.sent:
                self._begin(work)
            elif not work.void and self._clock() >= work.next_check:
                self._federation.run(work.given.run, afresh=True)
                work.next_check = self._clock() + RUN_CHECK_SECONDS
        except FederationError as error:
            if not error.ends_task:
                raise
            self._give_up(work, error.code)
        return work.next_check if state.work is work and not work.void else math.inf

    def _begin(self, work: Work) -> None:
        """Hand a fresh task to the guard, if it is for the approved app."""
        run = self._federation.run(work.given.run)
        if run.fab_sha256 != self._terms.fab_sha256:
            self._refuse(work, RefusalCode.NOT_APPROVED)
            return
        content = self._federation.content(work.given)
        work.round = content.round
        try:
            records, body = pack(content.records)
            frame = channel.Frame(
                "task",
                {
                    "task": work.given.task,
                    "run": str(work.given.run),
                    "round": work.round,
                    "message_type": work.given.message_type,
                    "records": records,
                    "run_config": {k: v for k, v in run.config.items() if _is_finite(v)},
                },
                body,
            )
            channel.encode_header(frame)
        except (RecordsError, channel.ChannelError, ValueError) as error:
            raise FederationError(Trouble.MALFORMED) from error
        channel.write(self._links.guard, frame, GUARD_READ_SECONDS)
        work.sent = True
        work.next_check = self._clock() + RUN_CHECK_SECONDS

    def _give_up(self, work: Work, code: Trouble) -> None:
        """End a task for a reason that lies with the federation."""
        if code in REFUSALS and not work.sent:
            self._refuse(work, REFUSALS[code])
        else:
            self._void(work, code)

    def _refuse(self, work: Work, code: RefusalCode) -> None:
        """Answer a task that the guard never sees."""
        self._tell({"type": "refused", "task": work.given.task, "round": work.round, "code": str(code)})
        approved = code is not RefusalCode.NOT_APPROVED
        self._reply(messages.no_update(work.given, work.round, approved=approved))

    def _void(self, work: Work, code: Trouble) -> None:
        """Nobody waits for the answer any more. No new task is taken before the guard is done with it."""
        work.void = True
        self._outbox.remove(work.given.task)
        self._tell({"type": "dropped", "task": work.given.task, "reason": str(code)})
        if not work.sent:
            self._state.work = None

    def _reply(self, parcel: Parcel) -> None:
        """Keep an answer until it is acknowledged, and free the hands for the next task."""
        state = self._state
        state.work = None
        state.waiting.append(parcel.task)
        if not self._keep(self._outbox.put, parcel):
            state.unsaved[parcel.task] = parcel

    def _keep(self, write: Callable[[Parcel], None], parcel: Parcel) -> bool:
        """Write to the outbox; if it cannot be written, say so and go on with what is in memory."""
        try:
            write(parcel)
        except OutboxError as error:
            code = "outbox_full" if error.full else "outbox_broken"
            self._tell({"type": "warning", "code": code, "hint": f"{error.message}: {error.hint}"})
            return False
        return True

    def _deliver(self) -> None:
        """Send the answers that wait, oldest first."""
        state = self._state
        while state.waiting:
            task = state.waiting[0]
            again = task in state.tried
            state.tried.add(task)
            outcome: control.Message = {"type": "acknowledged", "task": task}
            try:
                parcel = state.unsaved.get(task) or self._outbox.load(task)
                self._federation.deliver(parcel, again=again)
                outcome["released"] = parcel.released
            except OutboxError as error:
                LOG.warning("%s", error)
                outcome = {"type": "dropped", "task": task, "reason": "damaged"}
            except FederationError as error:
                if not error.ends_task:
                    raise
                outcome = {"type": "dropped", "task": task, "reason": str(error.code)}
            self._outbox.remove(task)
            state.unsaved.pop(task, None)
            state.tried.discard(task)
            del state.waiting[0]
            self._tell(outcome)
            state.active_at = self._clock()
            state.poll_at = 0.0

    def _hear_guard(self) -> None:
        """Take what the guard sent."""
        frame = self._reader.read_some()
        if frame is None:
            return
        work = self._state.work
        if work is None or not work.sent or frame.header.get("task") != work.given.task:
            LOG.warning("the guard answered a task that is not in hand")
        elif work.void:
            self._state.work = None
        elif frame.kind == "release":
            try:
                update = messages.update(
                    work.given, work.round, unpack(frame.header.get("payload"), frame.body)
                )
            except RecordsError as error:
                raise channel.ChannelError("the guard released what cannot be read") from error
            self._reply(update)
        elif frame.kind == "refusal":
            self._reply(messages.no_update(work.given, work.round))
        else:
            raise channel.ChannelError(f"the guard sent a frame of kind {frame.kind}")

    def _await(self, seconds: float) -> None:
        """Wait for the supervisor, the guard, or time."""
        poll = select.poll()
        poll.register(self._links.supervisor, select.POLLIN)
        poll.register(self._links.guard, select.POLLIN)
        timeout = None if math.isinf(seconds) else math.ceil(seconds * 1000)
        for fd, _ in poll.poll(timeout):
            if fd == self._links.guard.fileno():
                self._hear_guard()

    def _stopped(self) -> bool:
        """Read what the supervisor sent; whether it said stop. Another address is dialled from now on."""
        poll = select.poll()
        poll.register(self._links.supervisor, select.POLLIN)
        while poll.poll(0):
            message, _ = control.receive(self._links.supervisor)
            if message.get("type") == "stop":
                return True
            if message.get("type") == "dial":
                self._federation.move(str(message.get("address")))
                self._state.connected, self._state.parked = False, True
                self._tell({"type": "let_go"})
            elif message.get("type") == "go":
                self._state.parked = False
        return False

    def _tell(self, message: control.Message) -> None:
        control.send(self._links.supervisor, message)


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
