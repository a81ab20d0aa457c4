# SPDX-License-Identifier: Apache-2.0
"""A device dies while it hands a reply over, and hands it over anew: the federation's run goes on.

The server part takes the head of a reply as soon as it is there and waits for the objects behind it. From
then on the SuperLink knows nothing of the message that a second offer answers, and asks for no object.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.federation import Federation as Run
from daemon.federation import make_federation
from federation.device import echo
from federation.peer import LOOPBACK
from homebound.gateway import messages
from homebound.gateway.federation import Federation, endpoint
from homebound.gateway.messages import Assignment
from homebound.gateway.node import own_key
from homebound.gateway.outbox import Parcel
from homebound.gateway.wire import Line
from homebound.settings import FederationSettings

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
# The server part looks every 30 ms whether a reply is there.
TAKEN_SECONDS = 2.0
REPLY_SECONDS = 60.0


class Died(Exception):
    """The device, before it sent what it had just declared."""


class Mortal:
    """Counts the objects that a device sends, and ends it before one of them. A declaration of bytes
    comes before the bytes."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.objects = 0

    def __call__(self, kind: str, count: int, task: str) -> None:
        if kind == "push_object" and count > 0:
            if self.objects == self.last:
                raise Died
            self.objects += 1


@pytest.fixture(scope="module", params=[False, True], ids=["memory", "database"])
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Run]:
    """A run that waits for orders, at a SuperLink that keeps its state in memory or in a database."""
    made = make_federation(tmp_path_factory.mktemp("run"))
    made.link.database = request.param
    try:
        made.start()
        yield made
    finally:
        made.stop()


def session(run: Run, folder: Path, mortal: Mortal) -> Federation:
    """A life of the device."""
    root = str(run.link.root_certificates)
    settings = FederationSettings(address=f"{LOOPBACK}:{run.link.port}", root_certificates=root)
    where = endpoint(settings, LOOPBACK, run.link.port)
    return Federation(settings, where, own_key(folder), Line(mortal), max_task_bytes=1 << 20)


def pulled(device: Federation) -> Assignment:
    deadline = time.monotonic() + REPLY_SECONDS
    while (given := device.pull()) is None:
        assert time.monotonic() < deadline, "no task came"
        time.sleep(0.05)
    return given


def answered(device: Federation) -> Parcel:
    """The reply to the next task, not sent."""
    given = pulled(device)
    content = device.content(given)
    return messages.update(given, content.round, echo({"message_type": "train"}, content.records))


@pytest.mark.parametrize("sent", [0, 1, -1], ids=["head alone", "one object", "all but the last"])
def test_rest_of_a_reply_whose_head_was_taken(run: Run, tmp_path: Path, sent: int) -> None:
    first = session(run, tmp_path, mortal := Mortal(-1))
    node = first.connect()
    name = run.send(node)
    parcel = answered(first)
    mortal.last = mortal.objects + sent % len(parcel.objects)
    with pytest.raises(Died):
        first.deliver(parcel, again=False)
    first._client.close()
    time.sleep(TAKEN_SECONDS)
    second = session(run, tmp_path, Mortal(-1))
    assert second.connect(node) == node
    second.deliver(parcel, again=True)
    assert run.reply(name, REPLY_SECONDS)["outcome"] == "update"
    assert f"{parcel.task} does not exist" in run.link.log.read_text(), "the head was not taken in time"
    second.leave(1.0)


def test_whole_reply_once_more_does_no_harm(run: Run, tmp_path: Path) -> None:
    """Died between the last object and the outbox: all is there, and taken."""
    first = session(run, tmp_path, Mortal(-1))
    node = first.connect()
    name = run.send(node)
    parcel = answered(first)
    first.deliver(parcel, again=False)
    assert run.reply(name, REPLY_SECONDS)["outcome"] == "update"
    first._client.close()
    second = session(run, tmp_path, Mortal(-1))
    assert second.connect(node) == node
    second.deliver(parcel, again=True)
    name = run.send(node)
    second.deliver(answered(second), again=False)
    assert run.reply(name, REPLY_SECONDS)["outcome"] == "update"
    second.leave(1.0)
