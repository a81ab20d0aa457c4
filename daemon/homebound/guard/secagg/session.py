# SPDX-License-Identifier: Apache-2.0
"""One sum after another: what this device answers at each stage, and what it refuses.

The server is not trusted. Stages come in their order, once each, of one run and round; the shares of another
device are given out only if that device gave them to us, and then of its mask or of its key, never both. All
that is secret lives in this object, of one sum at a time; a restart ends it, and a refusal, too.
May import: guard.release, guard.checks, guard.secagg, records, settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from homebound.guard.checks import EXAMPLES, METRICS_RECORD, Refusal
from homebound.guard.release import Release, Task
from homebound.guard.secagg import forms, masking, sealing, sharing
from homebound.guard.secagg.forms import COLLECT, RECORD, SETUP, SHARE_KEYS, UNMASK, Setup
from homebound.guard.secagg.sealing import Broken, Pair, Shares
from homebound.records import Record, Records, RefusalCode, bytes_text
from homebound.settings import GuardSettings

NEXT = {SETUP: SHARE_KEYS, SHARE_KEYS: COLLECT, COLLECT: UNMASK}
# What a stage's answer is called in reports and in the ledger; an update is called "train".
KIND = "secagg"
SIGNED_PREFIX = b"homebound secure aggregation\0"
SEED_BYTES = 32
# The records of a task and of an answer in the protocol's older form, and what apps call them now.
OURS = {"fitins.parameters": "arrays", "fitins.config": "config"}
RESULT = "fitres"


class Identity(Protocol):
    """Who this device is to others, for as long as it lives; the ledger's writer."""

    @property
    def public(self) -> str:
        """Its public key."""

    def sign(self, digest: str, prefix: bytes) -> str:
        """The signature over a digest, in its own context."""


@dataclass
class Sum:
    """What is known of the sum in work. ``stage``: the last that was answered. ``node``: our number.

    ``agreed``: the keys shared with each neighbour, to seal with; ``masked_with``: its public key for masks.
    """

    run: str
    round: int
    setup: Setup
    masks: Pair
    seals: Pair
    digest: str
    stage: str = SETUP
    node: int = -1
    seed: bytes = b""
    agreed: dict[int, bytes] = field(default_factory=dict)
    masked_with: dict[int, Any] = field(default_factory=dict)
    shares: dict[int, Shares] = field(default_factory=dict)
    # An update of this sum is due. Masks that were used twice would take each other away.
    due: bool = False


class Session:
    """The device's side. ``randomness`` gives as many bytes as asked for."""

    def __init__(
        self, settings: GuardSettings, identity: Identity, randomness: Callable[[int], bytes]
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._randomness = randomness
        self._sum: Sum | None = None

    def receive(self, task: Task) -> Task | Release:
        """What is to be done with a task: train for it (as the app knows tasks), or release this at once.

        Raises Refusal; the sum in work is over then.
        """
        values = forms.values_of(task.records) if task.message_type == "train" else None
        if values is None:
            if self._settings.secagg_required and task.message_type == "train":
                raise Refusal(RefusalCode.SECAGG_REQUIRED)
            return task
        try:
            return self._take_stage(task, values)
        except Refusal:
            self.forget()
            raise

    @property
    def begins(self) -> bool:
        """Whether the last task received began a new sum."""
        return self._sum is not None and self._sum.stage == SETUP

    def forget(self) -> None:
        """The sum in work is over."""
        self._sum = None

    def mask(self, release: Release) -> Release:
        """What leaves in the place of the answer to the last task received: masked when it was of a sum."""
        work = self._sum
        if work is None or not work.due:
            return release
        work.due = False
        return replace(release, records=_masked(work, release))

    def _take_stage(self, task: Task, values: Mapping[str, Any]) -> Task | Release:
        stage, work = values[forms.STAGE], self._sum
        if stage == SETUP:
            return self._begin(task, forms.read_setup(values, self._settings))
        if work is None or NEXT.get(work.stage) != stage or not _is_of(task, work):
            raise Refusal(RefusalCode.SECAGG_STAGE)
        work.stage = stage
        if stage == SHARE_KEYS:
            return _answer(self._share(work, forms.read_keys(values)))
        if stage == COLLECT:
            self._keep(work, forms.read_sealed(values))
            work.due = True
            return replace(task, records=_renamed(forms.emptied(task.records)))
        self.forget()
        return _answer(self._open(work, forms.read_lists(values)))

    def _begin(self, task: Task, setup: Setup) -> Release:
        """New keys for a new sum; what was in work before is forgotten."""
        masks, seals = sealing.make_pair(), sealing.make_pair()
        terms = json.dumps([task.run, task.round, asdict(setup)], sort_keys=True).encode("ascii")
        self._sum = Sum(task.run, task.round, setup, masks, seals, hashlib.sha256(terms).hexdigest())
        digest = _digest(self._sum.digest, masks.public, seals.public)
        signature = self._identity.sign(digest, SIGNED_PREFIX)
        sent = sealing.with_signature(masks.public, self._identity.public, signature)
        return _answer({"pk1": bytes_text(sent), "pk2": bytes_text(seals.public)})

    def _share(self, work: Sum, keys: Mapping[int, tuple[bytes, bytes]]) -> dict[str, Any]:
        """Shares of our secrets for each neighbour, sealed."""
        if len(keys) < max(work.setup.threshold, self._settings.secagg_min_devices):
            raise Refusal(RefusalCode.SECAGG_TOO_FEW)
        forms.check_threshold(work.setup.threshold, len(keys))
        read = {node: _read_pair(pair) for node, pair in keys.items()}
        _check_distinct(read)
        work.node = self._find_ourselves(work, read)
        self._check_peers(work, keys)
        work.seed = self._randomness(SEED_BYTES)
        threshold, count = work.setup.threshold, len(keys)
        of_mask = sharing.split(work.seed, threshold, count, self._randomness)
        of_key = sharing.split(work.masks.private, threshold, count, self._randomness)
        takers, sealed = [], []
        for node, mask, key in zip(read, of_mask, of_key, strict=True):
            if node == work.node:
                work.shares[node] = Shares(mask, key)
                continue
            work.masked_with[node], theirs = read[node]
            work.agreed[node] = sealing.agree(work.seals.key, theirs)
            takers.append(node)
            given = sealing.seal(work.agreed[node], work.node, node, Shares(mask, key))
            sealed.append(bytes_text(given))
        return {"dsts": takers, "ctxts": sealed}

    def _find_ourselves(self, work: Sum, read: Mapping[int, tuple[Any, Any]]) -> int:
        """Our number: where our keys, both, are listed as we sent them."""
        ours = tuple(sealing.same_point(pair.key.public_key()) for pair in (work.masks, work.seals))
        for node, (first, second) in read.items():
            if (sealing.same_point(first), sealing.same_point(second)) == ours:
                return node
        raise Refusal(RefusalCode.SECAGG_KEYS)

    def _check_peers(self, work: Sum, keys: Mapping[int, tuple[bytes, bytes]]) -> None:
        """Each neighbour's keys were made for these very terms by a device of the list, each once."""
        if not self._settings.secagg_peers:
            return
        allowed = {*self._settings.secagg_peers} - {self._identity.public}
        for node, (first, second) in keys.items():
            if node == work.node:
                continue
            digest = _digest(work.digest, _bare(first), second)
            signer = sealing.signer_of(first, digest, SIGNED_PREFIX)
            if signer not in allowed:
                raise Refusal(RefusalCode.SECAGG_KEYS)
            allowed.remove(signer)

    def _keep(self, work: Sum, sealed: forms.Sealed) -> None:
        """The shares that neighbours gave us. With too few of them nothing is trained."""
        sources = sealed.sources
        if len(set(sources)) != len(sources) or not set(sources) <= set(work.agreed):
            raise Refusal(RefusalCode.SECAGG_LISTS)
        if len(sources) + 1 < max(work.setup.threshold, self._settings.secagg_min_devices):
            raise Refusal(RefusalCode.SECAGG_TOO_FEW)
        for node, content in zip(sources, sealed.ciphertexts, strict=True):
            try:
                work.shares[node] = sealing.unseal(work.agreed[node], node, work.node, content)
            except Broken as error:
                raise Refusal(RefusalCode.SECAGG_KEYS) from error

    def _open(self, work: Sum, lists: forms.Lists) -> dict[str, Any]:
        """Of each device that is in the sum the share of its mask, of each that is not that of its key."""
        active, dropped = set(lists.active), set(lists.dropped)
        both = (*lists.active, *lists.dropped)
        if len(set(both)) != len(both) or work.node not in active or not set(both) <= set(work.shares):
            raise Refusal(RefusalCode.SECAGG_LISTS)
        if len(active) < max(work.setup.threshold, self._settings.secagg_min_devices):
            raise Refusal(RefusalCode.SECAGG_TOO_FEW)
        shares = [work.shares[node].key if node in dropped else work.shares[node].mask for node in both]
        return {"nids": list(both), "shares": [bytes_text(share) for share in shares]}


def _is_of(task: Task, work: Sum) -> bool:
    return (task.run, task.round) == (work.run, work.round)


def _answer(values: Mapping[str, Any]) -> Release:
    return Release((Record(RECORD, "config", tuple(values), tuple(values.values())),), 0.0, False)


def _digest(terms: str, first: bytes, second: bytes) -> str:
    return hashlib.sha256(b"\0".join((terms.encode("ascii"), first, second))).hexdigest()


def _bare(public: bytes) -> bytes:
    """A public key without the signature behind it."""
    return sealing.SIGNED.sub(b"", public)


def _read_pair(pair: tuple[bytes, bytes]) -> tuple[Any, Any]:
    try:
        return sealing.public_key(pair[0]), sealing.public_key(pair[1])
    except Broken as error:
        raise Refusal(RefusalCode.SECAGG_KEYS) from error


def _check_distinct(read: Mapping[int, tuple[Any, Any]]) -> None:
    """No key stands twice: a mask with the same key twice takes itself away."""
    points = [sealing.same_point(key) for pair in read.values() for key in pair]
    if len(set(points)) != len(points):
        raise Refusal(RefusalCode.SECAGG_KEYS)


def _renamed(records: Records) -> Records:
    """The records of a task as an app of today knows them."""
    return tuple(replace(record, name=OURS.get(record.name, record.name)) for record in records)


def _masked(work: Sum, release: Release) -> Records:
    """The answer in the protocol's form: masked numbers, and beside them what the guard's rules let out."""
    metrics = next((record for record in release.records if record.name == METRICS_RECORD), None)
    told = dict(zip(metrics.keys, metrics.values, strict=True)) if metrics else {}
    examples = told.pop(EXAMPLES, 0)
    if not examples:
        raise Refusal(RefusalCode.TOO_FEW_EXAMPLES)
    setup, weight = work.setup, masking.weigh(examples, work.setup)
    numbers = [masking.as_ring(weight)]
    for record in release.records:
        if record.kind == "arrays":
            numbers.extend(masking.quantise(array, weight, setup) for array in record.values)
    masks: list[masking.Mask] = [(work.seed, True)]
    for node in set(work.shares) - {work.node}:
        agreed = sealing.agree(work.masks.key, work.masked_with[node])
        masks.append((agreed, work.node > node))
    masking.add_masks(numbers, masks, setup.modulus)
    return (
        Record(f"{RESULT}.parameters", "arrays", (), ()),
        Record(f"{RESULT}.num_examples", "metrics", ("num_examples",), (examples,)),
        Record(f"{RESULT}.metrics", "config", tuple(told), tuple(told.values())),
        Record(f"{RESULT}.status", "config", ("code", "message"), (0, "")),
        Record(RECORD, "arrays", tuple(str(place) for place in range(len(numbers))), tuple(numbers)),
    )
