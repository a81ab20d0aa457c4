# SPDX-License-Identifier: Apache-2.0
"""Flower's messages <-> ours: a message of the federation becomes a task, a release becomes a reply.

A reply is built once, kept as bytes (outbox.py) and sent as often as needed: its name is a digest of it,
so the federation knows it again. Nothing is unpickled or executed. No network here.
May import: records, recorddict, gateway.outbox, gateway.trouble, flwr.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    UnexpectedObjectContentError,
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from homebound.gateway.outbox import Parcel
from homebound.gateway.trouble import FederationError, Trouble
from homebound.recorddict import from_records, to_records
from homebound.records import Records, RecordsError

# What building a message out of bytes of a stranger may raise.
UNREADABLE = (ValueError, TypeError, KeyError, RecursionError, UnexpectedObjectContentError, RecordsError)

# A message is named by its SHA-256. The name goes into files, frames and reports, so nothing else will do.
NAME = re.compile(r"[0-9a-f]{64}")
# Where Flower's strategies say which round it is; its own field for it (group_id) stays empty.
ROUND_KEY = "server-round"
# Flower's record of what belongs to secure aggregation (secaggplus_constants.py).
MASKED = "secaggplus_configs"
# The words of a reply without an update. One for all refusals, so that they tell nothing about the data.
NO_UPDATE = "no update from this device"
NOT_APPROVED = "the app of this run is not approved on this device"


@dataclass(frozen=True)
class Assignment:
    """A message of the federation whose content is not fetched yet. ``task`` is its name, a SHA-256."""

    task: str
    run: int
    node: int
    message_type: str
    message: Message
    tree: ObjectTree


@dataclass(frozen=True)
class Content:
    """What a message holds, and the round that it says it belongs to (0 if it says none)."""

    records: Records
    round: int


def assignment(node: int, proto: MessageProto, tree: ObjectTree) -> Assignment:
    """The assignment in a pulled message. Raises FederationError (malformed)."""
    try:
        message = message_from_proto(proto)
    except (ValueError, TypeError) as error:
        raise FederationError(Trouble.MALFORMED) from error
    metadata = message.metadata
    if not NAME.fullmatch(metadata.message_id):
        raise FederationError(Trouble.MALFORMED, "a message has no name")
    return Assignment(metadata.message_id, metadata.run_id, node, metadata.message_type, message, tree)


def object_names(given: Assignment) -> list[str]:
    """The objects that the content is made of, each once."""
    return list(dict.fromkeys(tree.object_id for tree in iterate_object_tree(given.tree)))


def content(given: Assignment, objects: dict[str, bytes]) -> Content:
    """The content out of its objects, which are used up. Raises FederationError (malformed)."""
    try:
        message = inflate_object_from_contents(given.task, objects)
        if not isinstance(message, Message) or not message.has_content():
            raise FederationError(Trouble.MALFORMED)
        return Content(to_records(message.content), _round(message))
    except UNREADABLE as error:
        raise FederationError(Trouble.MALFORMED) from error


def _round(message: Message) -> int:
    number: Any = message.metadata.group_id
    if not number:
        configs = [record for record in message.content.values() if isinstance(record, ConfigRecord)]
        number = next((config[ROUND_KEY] for config in configs if ROUND_KEY in config), 0)
    digits = str(number)
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0


def update(given: Assignment, round_number: int, records: Records) -> Parcel:
    """The reply with a released update."""
    return _parcel(given, round_number, lambda: Message(as_content(records), reply_to=given.message), True)


def as_content(records: Records) -> RecordDict:
    """The records as Flower's. Masked arrays travel as bytes among the values of their stage."""
    content = from_records(records)
    masked = content.array_records.get(MASKED)
    if masked is not None:
        del content[MASKED]
        content[MASKED] = ConfigRecord({"masked_params": [array.data for array in masked.values()]})
    return content


def no_update(given: Assignment, round_number: int, *, approved: bool = True) -> Parcel:
    """The reply without one. Whether the app is approved does not depend on the data, so it may be said."""
    code = ErrorCode.UNKNOWN if approved else ErrorCode.INVALID_FAB
    error = Error(code, NO_UPDATE if approved else NOT_APPROVED)
    return _parcel(given, round_number, lambda: Message(error, reply_to=given.message), False)


def _parcel(given: Assignment, round_number: int, make: Callable[[], Message], released: bool) -> Parcel:
    with no_object_id_recompute():
        reply = make()
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = get_all_nested_objects(reply)
        return Parcel(
            task=given.task,
            run=given.run,
            round=round_number,
            node=given.node,
            envelope=message_to_proto(remove_content_from_message(reply)).SerializeToString(),
            tree=get_object_tree(reply).SerializeToString(),
            objects=tuple((name, part.deflate()) for name, part in objects.items()),
            released=released,
        )
