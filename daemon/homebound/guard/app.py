# SPDX-License-Identifier: Apache-2.0
"""The guard's loop: one task at a time from the gateway to the trainer, one decision back.

Links: the gateway (frames), the trainer (frames; the supervisor passes a new one for each trainer) and the
supervisor (control messages). Whatever the trainer does ends in a release or a refusal with a code, and the
loop goes on. An entry is in the ledger before the first byte of a release is written.
May import: channel, control, books.ledger, records, settings, errors, and the rest of this room.
"""

from __future__ import annotations

import dataclasses
import os
import selectors
import socket
import sys
from collections.abc import Callable

from homebound import channel, control
from homebound.channel import ChannelClosed, ChannelError, Frame
from homebound.errors import HomeboundError
from homebound.guard import intake, models, release
from homebound.guard.books import VERIFY_SECONDS, Books
from homebound.guard.checks import Refusal
from homebound.guard.credit import Purse
from homebound.guard.links import Link
from homebound.guard.options import Options
from homebound.guard.pace import Pace
from homebound.guard.privacy import Noise
from homebound.guard.release import Release, Task
from homebound.guard.secagg.session import KIND, Session
from homebound.records import RefusalCode

# The codes that a trainer may say about itself. Any other word of it is a broken frame.
TRAINER_CODES = {code.value: code for code in (RefusalCode.APP_FAILED, RefusalCode.APP_NOT_LOADED)}
# What a body has besides the arrays: names, shapes and padding (safetensors' header).
BODY_OVERHEAD = 1 << 20
# How long a release that is in the ledger may still take to reach the gateway after the word to stop.
STOP_SECONDS = 2.0
WANTED = {"type": "trainer_wanted"}


@dataclasses.dataclass
class Pending:
    """The task in work. ``frame`` is what the trainer still has to get."""

    task: Task
    frame: Frame | None
    deadline: float


class Guard:
    """The state of the guard: who is there, and which task is in work."""

    def __init__(
        self,
        options: Options,
        supervisor: socket.socket,
        gateway: socket.socket,
        books: Books,
        purse: Purse,
        session: Session,
        clock: Callable[[], float],
        noise: Noise,
    ) -> None:
        self._options = options
        self._supervisor = supervisor
        self._gateway = Link(gateway, options.guard.max_update_bytes)
        self._books = books
        self._purse = purse
        self._session = session
        self._clock = clock
        self._noise = noise
        self._trainer: Link | None = None
        self._trainer_ready = False
        self._trainer_number: object = None
        # After we gave up on a trainer the supervisor still reports its end; that is no news.
        self._end_expected = False
        self._pending: Pending | None = None
        self._decision: Release | RefusalCode | None = None
        self._stop_at: float | None = None
        self._verify_at = clock() + VERIFY_SECONDS
        self._pace = Pace(clock)

    def run(self) -> None:
        """Serve until the supervisor says stop.

        Raises ControlClosed or ChannelError when the supervisor or the gateway ends or breaks the form,
        ViolationPresent when the ledger was changed under our hands.
        """
        self._tell({"type": "ready"})
        self._tell(self._books.report())
        if self._options.warm:
            self._tell(WANTED)
        while not self._is_done():
            self._wait()
            # Here and not where it was made, because by now the memory of the update's frame is free.
            if self._decision is not None:
                self._conclude()
            if self._pending is not None and self._clock() >= self._pending.deadline:
                self._drop_trainer(RefusalCode.TIMEOUT)
            if self._pending is None and self._clock() >= self._verify_at:
                self._verify_books()

    def _verify_books(self) -> None:
        self._books.verify()
        self._verify_at = self._clock() + VERIFY_SECONDS
        self._tell(self._books.report())

    def _is_done(self) -> bool:
        if self._stop_at is None:
            return False
        return not self._gateway.is_writing or self._clock() >= self._stop_at

    def _wait(self) -> None:
        """Wait for one of the links and serve it. With three links a fresh selector each time is cheap."""
        with selectors.PollSelector() as selector:
            selector.register(self._supervisor, selectors.EVENT_READ, self._on_supervisor)
            # The next task is read when the present one is done: what waits costs no memory here.
            idle = self._pending is None and self._stop_at is None and not self._gateway.is_writing
            _register(selector, self._gateway, idle and self._pace.is_due, self._on_gateway)
            if self._trainer is not None:
                _register(selector, self._trainer, True, self._on_trainer)
            deadline = self._verify_at if self._pending is None else self._pending.deadline
            if idle and not self._pace.is_due:
                deadline = min(deadline, self._pace.until)
            if self._stop_at is not None:
                deadline = min(deadline, self._stop_at)
            for key, events in selector.select(max(0.0, deadline - self._clock())):
                key.data(events)

    # --- supervisor

    def _on_supervisor(self, _events: int) -> None:
        message, fds = control.receive(self._supervisor)
        kind = message.get("type")
        if kind == "trainer" and len(fds) == 1:
            self._attach_trainer(socket.socket(fileno=fds.pop()), message.get("number"))
        elif kind == "trainer_gone":
            self._on_trainer_gone()
        elif kind == "stop":
            self._stop_at = self._clock() + STOP_SECONDS
        for fd in fds:
            os.close(fd)

    def _tell(self, message: control.Message) -> None:
        control.send(self._supervisor, message)

    # --- gateway

    def _on_gateway(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._gateway.flush()
        if not events & selectors.EVENT_READ:
            return
        frame = self._gateway.read()
        if frame is None:
            return
        if frame.kind != "task":
            raise ChannelError(f"the gateway sent a frame of kind {frame.kind!r}")
        self._begin(frame)

    def _begin(self, frame: Frame) -> None:
        task = intake.unread(frame)
        try:
            task = intake.read(frame)
            models.check_model(task.records)
            wanted = self._session.receive(task)
            trains = self._session.begins or not isinstance(wanted, Release)
            if trains and not self._books.affords(task):
                raise Refusal(RefusalCode.BUDGET)
        except Refusal as refusal:
            self._refuse(task, refusal.code)
            return
        kind = KIND if isinstance(wanted, Release) else task.message_type
        self._tell({"type": "started", "task": task.task, "round": task.round, "kind": kind})
        if isinstance(wanted, Release):
            self._release(dataclasses.replace(task, message_type=kind, records=()), wanted)
            return
        passed_on = frame if wanted is task else intake.passed_on(frame, wanted)
        self._pending = Pending(wanted, passed_on, self._clock() + self._options.round_timeout_seconds)
        if self._trainer is None:
            self._tell(WANTED)
        else:
            self._send_task()

    def _refuse(self, task: Task, code: RefusalCode) -> None:
        """Say no to the gateway. That the ledger cannot note it stops nothing: nothing of the app leaves."""
        try:
            self._books.refuse(task, code)
        except HomeboundError as error:
            _complain(f"a refusal is not in the ledger: {error}")
        self._pace.ended(began=self._pending is not None)
        self._pending = None
        if task.message_type != "evaluate":
            self._session.forget()
        self._gateway.queue(Frame("refusal", {"task": task.task, "code": code.value}))
        self._tell({"type": "refused", "task": task.task, "round": task.round, "code": code.value})
        self._tell(self._books.report())

    # --- trainer

    def _attach_trainer(self, sock: socket.socket, number: object) -> None:
        self._trainer_number = (
            number  # told back, so that a word on this one is not taken for one on the next
        )
        if self._trainer is not None:
            self._trainer.close()
        # Nothing but small words is due from it before it has a task.
        self._trainer = Link(sock, 0)
        self._trainer_ready = self._end_expected = False
        self._trainer.queue(Frame("load"))

    def _send_task(self) -> None:
        """Hand the task to the trainer once both are there."""
        pending = self._pending
        if pending is None or pending.frame is None or self._trainer is None or not self._trainer_ready:
            return
        self._trainer.expect(self._update_limit(pending))
        self._trainer.queue(pending.frame)
        pending.frame = None

    def _update_limit(self, pending: Pending) -> int:
        """Largest body taken from the trainer: twice the task, so that a wrong dtype is told from a flood."""
        size = len(pending.frame.body) if pending.frame is not None else 0
        return min(self._options.guard.max_update_bytes, 2 * size + BODY_OVERHEAD)

    def _on_trainer(self, events: int) -> None:
        if self._trainer is None:
            return
        if events & selectors.EVENT_WRITE:
            self._trainer.flush()
        if events & selectors.EVENT_READ:
            self._read_trainer(self._trainer)

    def _read_trainer(self, trainer: Link) -> None:
        try:
            frame = trainer.read()
        except ChannelClosed:
            self._drop_trainer(RefusalCode.TRAINER_DIED)
        except ChannelError as error:
            self._drop_trainer(_code(error))
        else:
            if frame is not None:
                self._on_frame(trainer, frame)

    def _on_frame(self, trainer: Link, frame: Frame) -> None:
        code = TRAINER_CODES.get(frame.header.get("code", "")) if _is_text(frame, "code") else None
        if frame.kind == "ready" and not self._trainer_ready:
            self._trainer_ready = True
            self._send_task()
        elif frame.kind == "failed" and not self._trainer_ready and code is RefusalCode.APP_NOT_LOADED:
            self._drop_trainer(code)
        elif not self._is_answer(frame):
            self._drop_trainer(RefusalCode.MALFORMED)
        elif frame.kind == "failed" and code is not None:
            # What the app left behind (children, a full /tmp, a broken state) must not meet the next round.
            self._drop_trainer(code)
        elif frame.kind == "update":
            self._judge(frame)
        else:
            self._drop_trainer(RefusalCode.MALFORMED)

    def _is_answer(self, frame: Frame) -> bool:
        """Whether a frame is about the task that the trainer has."""
        pending = self._pending
        return pending is not None and pending.frame is None and frame.header.get("task") == pending.task.task

    def _judge(self, frame: Frame) -> None:
        pending = self._pending
        if pending is None:
            return
        settings = self._options.guard
        try:
            update = release.read_update(frame.header, frame.body, settings.max_update_bytes)
            counted = release.read_counted(frame.header)
        except Refusal as refusal:
            self._drop_trainer(refusal.code)
            return
        decision = release.decide(pending.task, update, settings, self._noise, counted)
        self._decision = decision.code if isinstance(decision, Refusal) else decision
        # The model has done its duty as schema; a release is as large again.
        pending.task = dataclasses.replace(pending.task, records=())

    def _conclude(self) -> None:
        """End the task in work with a trainer that is well."""
        decision, pending = self._decision, self._pending
        self._decision = None
        if decision is None or pending is None:
            return
        try:
            decided = self._session.mask(decision) if isinstance(decision, Release) else decision
        except Refusal as refusal:
            decided = refusal.code
        del decision
        if isinstance(decided, Release):
            self._release(pending.task, decided)
        else:
            self._refuse(pending.task, decided)
        if self._trainer is None:
            return
        if self._options.warm:
            self._trainer.expect(0)
        else:
            self._trainer.queue(Frame("end"))
            self._close_trainer()
            self._end_expected = True

    def _release(self, task: Task, decision: Release) -> None:
        payload = release.payload(decision)
        try:
            entry = self._books.release(task, decision, payload)
        except HomeboundError as error:
            _complain(f"no release without an entry: {error}")
            self._refuse(task, RefusalCode.LEDGER)
            return
        self._pace.ended(began=self._pending is not None)
        self._pending = None
        granted = self._purse.grant(payload.size, decision.arrays)
        facts = {"task": task.task, "sha256": payload.sha256, "entry": entry.number}
        self._gateway.queue(Frame("release", {**facts, "payload": payload.header}, payload.body))
        size: dict[str, float] = {"payload_bytes": payload.size, "arrays": decision.arrays}
        size |= {"norm": decision.norm, "clipped": decision.clipped}
        told = {"round": task.round, "kind": task.message_type, "granted": granted}
        self._tell({"type": "released", **told, **facts, **size})
        self._tell(self._books.report())

    def _drop_trainer(self, code: RefusalCode) -> None:
        """Give up on the trainer; the supervisor kills what is left of it. Refuse the task in work."""
        self._close_trainer()
        self._end_expected = True
        self._tell({"type": "trainer_failed", "code": code.value, "number": self._trainer_number})
        if self._pending is not None:
            self._refuse(self._pending.task, code)

    def _close_trainer(self) -> None:
        if self._trainer is not None:
            self._trainer.close()
        self._trainer, self._trainer_ready = None, False

    def _on_trainer_gone(self) -> None:
        """The supervisor saw the trainer end. Its last words may still be in the link: read them first."""
        if self._end_expected:
            self._end_expected = False
            return
        while self._trainer is not None and self._decision is None and _has_bytes(self._trainer.sock):
            self._read_trainer(self._trainer)
        self._close_trainer()
        if self._pending is not None and self._decision is None:
            self._refuse(self._pending.task, RefusalCode.TRAINER_DIED)


def _register(
    selector: selectors.BaseSelector, link: Link, is_reading: bool, serve: Callable[[int], None]
) -> None:
    events = (selectors.EVENT_READ if is_reading else 0) | (selectors.EVENT_WRITE if link.is_writing else 0)
    if events:
        selector.register(link.sock, events, serve)


def _has_bytes(sock: socket.socket) -> bool:
    """Whether something can be read now. False at the end of the link, too."""
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False


def _complain(text: str) -> None:
    """One line for the person who looks at this device."""
    sys.stderr.write(f"homebound: {text}\n")
    sys.stderr.flush()


def _is_text(frame: Frame, key: str) -> bool:
    return isinstance(frame.header.get(key), str)


def _code(error: ChannelError) -> RefusalCode:
    """Over the size limit, or no frame at all. The limit is the reader's, which took no memory for it."""
    return RefusalCode.TOO_LARGE if isinstance(error, channel.FrameTooLarge) else RefusalCode.MALFORMED
