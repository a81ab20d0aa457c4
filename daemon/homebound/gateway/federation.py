# SPDX-License-Identifier: Apache-2.0
"""Flower's Fleet API for one device. The only file that knows Flower's network classes.

They are private to Flower, so one minor version is required; tests run against a real SuperLink.
Nothing is retried here and nothing ends the process: every failure is a FederationError with a code.
An app bundle is never asked for. Sees tasks and released updates, no raw data.
May import: settings, gateway.messages, gateway.outbox, gateway.trouble, gateway.wire, flwr.
"""

from __future__ import annotations

import base64
import contextlib
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import flwr
import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.common.serde import run_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    FLWR_COMPONENT_NAME_METADATA_KEY,
    FLWR_PACKAGE_NAME_METADATA_KEY,
    FLWR_PACKAGE_VERSION_METADATA_KEY,
    VERSION_INCOMPATIBILITY_MESSAGE_METADATA_KEY,
)
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient

from homebound.gateway import messages
from homebound.gateway.messages import Assignment, Content
from homebound.gateway.outbox import Parcel
from homebound.gateway.trouble import (
    ACTIVATION_REFUSED,
    KEY_IN_USE,
    REGISTRATION_OFF,
    Answered,
    FederationError,
    Trouble,
    explaining_link,
)
from homebound.gateway.wire import PURPOSE, Endpoint, Line, Purpose, Transport
from homebound.settings import FederationSettings

FLOWER = "1.42."
USER_AGENT = "homebound"
# What each call of the Fleet API is called in the accounts. A call that is not here is not made.
KINDS: Mapping[str, str] = {
    "/flwr.proto.Fleet/RegisterNode": "register",
    "/flwr.proto.Fleet/ActivateNode": "activate",
    "/flwr.proto.Fleet/DeactivateNode": "deactivate",
    "/flwr.proto.Fleet/SendNodeHeartbeat": "heartbeat",
    "/flwr.proto.Fleet/PullMessages": "pull",
    "/flwr.proto.Fleet/GetRun": "get_run",
    "/flwr.proto.Fleet/PullObject": "pull_object",
    "/flwr.proto.Fleet/ConfirmMessageReceived": "confirm",
    "/flwr.proto.Fleet/PushMessages": "push",
    "/flwr.proto.Fleet/PushObject": "push_object",
}
# Flower's own interval; after twice as long without a heartbeat a device counts as away.
HEARTBEAT_INTERVAL = 30.0
HEARTBEAT_PAUSE = 20.0
REQUEST_SECONDS = 30.0
# A ServerApp sends the objects of a message after the message: how often to ask for one, and how long.
OBJECT_PAUSE, OBJECT_SECONDS = 0.05, 60.0
# In place of an upload's number: whichever waits for the object. If none does, it is there, or too late.
ANY_UPLOAD = ""

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Run:
    """What the federation says about a run: its app's identity and the overrides of its configuration."""

    fab_sha256: str
    config: Mapping[str, Scalar]


class _Signer:
    """Puts purpose, version and signature on a request, and stops at an answer that is not 200.

    Sets the headers of Flower's two interceptors; importing those costs 19 MB, and one can end the process.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, wall: Callable[[], datetime]) -> None:
        self._key = key
        self._public_key = base64.b64encode(public_key_to_bytes(key.public_key())).decode("ascii")
        self._wall = wall
        self.task = ""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Flower's seam between a call and its transport."""
        at = self._wall()
        stamp = at.isoformat()
        signature = sign_message(self._key, stamp.encode("ascii"))
        context.request.extensions[PURPOSE] = Purpose(KINDS[context.rpc_method], self.task)
        context.request.headers.update(
            {
                FLWR_PACKAGE_NAME_METADATA_KEY: "flwr",
                FLWR_PACKAGE_VERSION_METADATA_KEY: flwr.__version__,
                FLWR_COMPONENT_NAME_METADATA_KEY: "SuperNode",
                FLEET_HTTP_PUBLIC_KEY_HEADER: self._public_key,
                TIMESTAMP_HEADER: stamp,
                FLEET_HTTP_SIGNATURE_HEADER: base64.b64encode(signature).decode("ascii"),
            }
        )
        response = call_next(context)
        if VERSION_INCOMPATIBILITY_MESSAGE_METADATA_KEY in response.headers:
            raise FederationError(Trouble.VERSION)
        if response.status_code != httpx.codes.OK:
            raise Answered(response, at)
        return response


def endpoint(settings: FederationSettings, address: str, port: int) -> Endpoint:
    """Where to connect: ``address`` is the literal that the supervisor resolved the configured name to.

    Raises FederationError (certificate) when the trusted certificates cannot be read.
    """
    if settings.insecure:
        return Endpoint(address, port, settings.host, None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if settings.root_certificates:
            context.load_verify_locations(cafile=settings.root_certificates)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    except OSError as error:  # ssl.SSLError is one
        detail = f"federation.root_certificates cannot be read: {error.strerror or error}"
        raise FederationError(Trouble.CERTIFICATE, detail) from error
    return Endpoint(address, port, settings.host, context)


class Federation:
    """One device's session with one SuperLink. Calls are made one after another."""

    def __init__(
        self,
        settings: FederationSettings,
        end: Endpoint,
        key: ec.EllipticCurvePrivateKey,
        line: Line,
        *,
        max_task_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], datetime] = now,
    ) -> None:
        if not flwr.__version__.startswith(FLOWER):
            raise FederationError(Trouble.VERSION, f"this device has Flower {flwr.__version__}")
        self._self_registered = not settings.node_key
        self._public_key = public_key_to_bytes(key.public_key())
        self._signer = _Signer(key, wall)
        self._line = line
        self._max_task_bytes = max_task_bytes
        self._clock = clock
        self._next_heartbeat = 0.0
        self._runs: dict[int, Run] = {}
        self.node = 0
        host = f"[{end.name}]" if ":" in end.name else end.name
        scheme = "http" if end.context is None else "https"
        self._client = FleetHttpClient(
            f"{scheme}://{host}:{end.port}", interceptors=[self._signer], verify=False
        )
        self._client._client.close()
        self._end = end
        self._client._client = self._http()

    def _http(self) -> httpx.Client:
        """Flower's own follows redirects and takes proxies from the environment; this has our wire only."""
        return httpx.Client(
            transport=Transport(self._end, self._line, self._max_task_bytes + (1 << 20)),
            headers={"user-agent": USER_AGENT, "accept-encoding": "identity"},
            timeout=REQUEST_SECONDS,
            follow_redirects=False,
            trust_env=False,
        )

    def move(self, address: str) -> None:
        """Dial another address of the same federation from now on; it is the same in all else."""
        self._client._client.close()
        self._end = replace(self._end, address=address)
        self._client._client = self._http()

    def connect(self, known_node: int = 0) -> int:
        """Open a session, or go on with that of ``known_node``; returns this device's number.

        Raises FederationError.
        """
        self._signer.task = ""
        if (known := self.node or known_node) and self._resume(known):
            return self.node
        if self._self_registered:
            self._register()
        try:
            with explaining_link():
                self.node = self._client.ActivateNode(
                    ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_INTERVAL)
                ).node_id
        except Answered as answer:
            if answer.code != ACTIVATION_REFUSED:
                raise answer.explain() from answer
            detail = "" if self._self_registered else "or it does not know the key"
            raise FederationError(Trouble.KEY_BUSY, detail) from answer
        self._next_heartbeat = self._clock() + HEARTBEAT_PAUSE
        return self.node

    def beat(self) -> float:
        """Send a heartbeat if one is due; when the next one is, by the clock that was passed in."""
        if self._clock() >= self._next_heartbeat:
            with self._explaining():
                response = self._client.SendNodeHeartbeat(
                    SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_INTERVAL)
                )
            if not response.success:
                raise FederationError(Trouble.FORGOTTEN)
            self._next_heartbeat = self._clock() + HEARTBEAT_PAUSE
        return self._next_heartbeat

    def pull(self) -> Assignment | None:
        """The next message for this device, without its content. Raises FederationError."""
        self._signer.task = ""
        with self._explaining():
            response = self._client.PullMessages(PullMessagesRequest(node=self._node))
        if not response.messages_list or not response.message_object_trees:
            return None
        return messages.assignment(self.node, response.messages_list[0], response.message_object_trees[0])

    def run(self, number: int, *, afresh: bool = False) -> Run:
        """What the federation says about a run, remembered unless ``afresh``. Raises FederationError."""
        if afresh or number not in self._runs:
            with self._explaining():
                answer = run_from_proto(
                    self._client.GetRun(GetRunRequest(node=self._node, run_id=number)).run
                )
            self._runs = {number: Run(answer.fab_hash, dict(answer.override_config))}
        return self._runs[number]

    def content(self, given: Assignment) -> Content:
        """Fetch the content of a message and confirm it. Raises FederationError."""
        self._signer.task = given.task
        objects: dict[str, bytes] = {}
        room = self._max_task_bytes
        for name in messages.object_names(given):
            objects[name] = self._pull_object(given, name)
            room -= len(objects[name])
            if room < 0:
                raise FederationError(Trouble.TOO_LARGE)
        # Confirmed or not, the content is here; the federation clears it away with the run at the latest.
        with contextlib.suppress(FederationError), self._explaining():
            self._client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(node=self._node, run_id=given.run, message_object_id=given.task)
            )
        return messages.content(given, objects)

    def deliver(self, parcel: Parcel, *, again: bool) -> None:
        """Send a reply whole; ``again`` if it may have been sent before.

        A server part takes the head of a reply and waits for the objects; from then on Flower has forgotten
        the message that the reply answers, and asks for nothing when the head comes again. So then every
        object is offered without the number of an upload, and Flower finds the one that still misses it.
        Raises FederationError; if it ends the task, sending again is pointless.
        """
        self._signer.task = parcel.task
        if parcel.node != self.node:
            raise FederationError(Trouble.NOT_WANTED, "this device got another number")
        with self._explaining():
            answer = self._client.PushMessages(
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[MessageProto.FromString(parcel.envelope)],
                    message_object_trees=[ObjectTree.FromString(parcel.tree)],
                    # Flower asks how long the ClientApp took; that is the device's own affair.
                    clientapp_runtime_list=[0.0],
                )
            )
        wanted = set(answer.objects_to_push)
        if not wanted and not again:
            # Flower answers 200 to a reply that it does not keep: too late, or to a message it has forgotten.
            raise FederationError(Trouble.NOT_WANTED)
        for name, part in parcel.objects:
            if name in wanted:
                self._push_object(parcel, answer.session_id, name, part)
            elif not wanted:
                self._push_object(parcel, ANY_UPLOAD, name, part)

    def leave(self, seconds: float) -> None:
        """End the session and close; a failure does not matter, for it ends by itself after a minute."""
        self._line.wake = None
        self._signer.task = ""
        self._line.deadline = self._line.clock() + seconds
        if self.node:
            with contextlib.suppress(FederationError), self._explaining():
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node))
        self._client.close()

    @property
    def _node(self) -> Node:
        return Node(node_id=self.node)

    def _resume(self, node: int) -> bool:
        """Go on with a session by a heartbeat; False if the federation does not know it."""
        self.node, self._next_heartbeat = node, 0.0
        try:
            self.beat()
        except FederationError as error:
            if error.code is not Trouble.FORGOTTEN:
                raise
            self.node = 0
        return bool(self.node)

    def _register(self) -> None:
        try:
            with explaining_link():
                self._client.RegisterNode(RegisterNodeFleetRequest(public_key=self._public_key))
        except Answered as answer:
            if answer.code == REGISTRATION_OFF:
                raise FederationError(Trouble.KEY_UNKNOWN, "it takes registered keys only") from answer
            if answer.code != KEY_IN_USE:
                raise answer.explain() from answer

    def _pull_object(self, given: Assignment, name: str) -> bytes:
        deadline = self._clock() + OBJECT_SECONDS
        while True:
            self.beat()
            with self._explaining():
                response = self._client.PullObject(
                    PullObjectRequest(node=self._node, run_id=given.run, object_id=name)
                )
            if response.object_available:
                return response.object_content
            if not response.object_found or self._clock() > deadline:
                raise FederationError(Trouble.MALFORMED, "a part of the message is missing")
            self._line.rest(OBJECT_PAUSE)

    def _push_object(self, parcel: Parcel, session: str, name: str, part: bytes) -> None:
        self.beat()
        with self._explaining():
            answer = self._client.PushObject(
                PushObjectRequest(
                    node=self._node,
                    run_id=parcel.run,
                    session_id=session,
                    object_id=name,
                    object_content=part,
                )
            )
        if not answer.stored and session != ANY_UPLOAD:
            raise FederationError(Trouble.GONE, "it gave up the upload")

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """A call whose every answer but 200 is a trouble."""
        try:
            with explaining_link():
                yield
        except Answered as answer:
            raise answer.explain() from answer
