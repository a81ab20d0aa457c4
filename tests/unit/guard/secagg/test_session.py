# SPDX-License-Identifier: Apache-2.0
"""Secure aggregation under Flower's own server: the sum is right, and a dishonest server gets no more."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from homebound.guard.release import Release, Task
from homebound.guard.secagg import forms
from homebound.guard.secagg.session import Session
from homebound.records import Record, bytes_text
from unit.guard.secagg.rig import RUN, SETTINGS, Member, add_up, expected, is_moved_by, members


@pytest.mark.parametrize("count", [3, 5])
def test_the_sum_is_right(count: int) -> None:
    devices = members(count)
    found = add_up(devices)
    assert is_moved_by(found, expected(devices))
    assert all(device.codes == [] for device in devices)
    assert sorted(told["examples"] for told in found.told) == [64 * 2**0, 128, 192, 256, 320][:count]
    assert {told["loss"] for told in found.told} == {0.51}


def test_the_sum_of_a_sparse_graph_is_right() -> None:
    """Seven devices, each with two neighbours on either side."""
    devices = members(7)
    found = add_up(devices, num_shares=5, reconstruction_threshold=3)
    assert is_moved_by(found, expected(devices))


def test_a_device_that_drops_out_is_not_in_the_sum() -> None:
    devices = members(5)
    found = add_up(devices, lost={devices[1].node: forms.COLLECT})
    assert is_moved_by(found, expected([*devices[:1], *devices[2:]]))


def test_what_leaves_says_nothing_by_itself() -> None:
    """Masked numbers are spread over the whole ring; the same without masks would lie close together."""
    devices = [replace(device, step=0.0) for device in members(5)]
    add_up(devices)
    (masked,) = [
        r for records in devices[0].seen for r in records if r.name == forms.RECORD and r.kind == "arrays"
    ]
    numbers = np.concatenate([array.reshape(-1) for array in masked.values]).astype(float) / 2**32
    assert numbers.std() > 0.2
    assert 0.25 < numbers.mean() < 0.75


def test_two_rounds_share_nothing() -> None:
    devices = members(3)
    for number in (1, 2):
        assert is_moved_by(add_up(devices, number=number), expected(devices))
    masked = [
        record.values[1] for records in devices[0].seen for record in records
        if record.name == forms.RECORD and record.kind == "arrays"
    ]  # fmt: skip
    assert len(masked) == 2
    assert not np.array_equal(*masked)


# --- a dishonest server


class Server:
    """Changes one thing at one stage for one device."""

    def __init__(self, stage: str, node: int, change: Any) -> None:
        self.stage, self.node, self.change = stage, node, change

    def __call__(self, stage: str, node: int, values: dict[str, Any]) -> None:
        if (stage, node) == (self.stage, self.node):
            self.change(values)


def refused(stage: str, change: Any, count: int = 5, **settings: Any) -> list[str]:
    """The codes of the device that the server treats so."""
    devices = members(count, **settings)
    add_up(devices, Server(stage, devices[0].node, change))
    # Flower's server cannot end a sum without a device that gave no shares, and asks the others for them.
    assert all(set(device.codes) <= {"secagg_lists"} for device in devices[1:])
    return devices[0].codes


def both_active_and_dropped(values: dict[str, Any]) -> None:
    values["dead_nids"] = [values["active_nids"][0]]


def own_number_dropped(values: dict[str, Any]) -> None:
    values["dead_nids"] = [2**63]
    values["active_nids"].remove(2**63)


def listed_twice(values: dict[str, Any]) -> None:
    values["active_nids"] = [*values["active_nids"], values["active_nids"][0]]


def a_stranger(values: dict[str, Any]) -> None:
    values["dead_nids"] = [12345]


def only_two(values: dict[str, Any]) -> None:
    values["active_nids"] = [2**63, 2**63 + 11]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (both_active_and_dropped, "secagg_lists"),
        (own_number_dropped, "secagg_lists"),
        (listed_twice, "secagg_lists"),
        (a_stranger, "secagg_lists"),
        (only_two, "secagg_too_few"),
    ],
)
def test_lists_that_would_open_a_single_update_are_refused(change: Any, code: str) -> None:
    assert refused(forms.UNMASK, change) == [code]


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        ({"threshold": 2}, "secagg_threshold"),
        ({"threshold": 6}, "secagg_threshold"),
        ({"share_num": 2, "threshold": 2}, "secagg_too_few"),
        ({"sample_num": 2}, "secagg_too_few"),
        ({"mod_range": 2**33}, "malformed"),
        ({"mod_range": 3 * 2**20, "target_range": 2}, "malformed"),
        ({"target_range": 2**32}, "malformed"),
        ({"clipping_range": float("1e300")}, "malformed"),
        ({"max_weight": 0.0}, "malformed"),
        ({"threshold": True}, "malformed"),
        ({"share_num": 1000, "threshold": 900}, "malformed"),
    ],
)
def test_terms_that_protect_too_little_are_refused(terms: dict[str, Any], code: str) -> None:
    assert refused(forms.SETUP, lambda values: values.update(terms)) == [code]


def test_a_federation_of_two_is_refused() -> None:
    devices = members(2)
    assert add_up(devices, num_shares=1.0).sums == []
    assert [device.codes for device in devices] == [["secagg_too_few"]] * 2


def test_fewer_devices_than_the_operator_wants_are_refused() -> None:
    devices = members(5, secagg_min_devices=6)
    assert add_up(devices).sums == []
    assert {code for device in devices for code in device.codes} == {"secagg_too_few"}


def new_key() -> bytes:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def our_key_changed(values: dict[str, Any]) -> None:
    values[str(2**63)] = [new_key(), values[str(2**63)][1]]


def the_same_key_twice(values: dict[str, Any]) -> None:
    values[str(2**63 + 11)] = values[str(2**63 + 22)]


def no_key(values: dict[str, Any]) -> None:
    values[str(2**63 + 11)] = [b"not a key", b"not a key"]


def a_neighbours_key_changed(values: dict[str, Any]) -> None:
    values[str(2**63 + 11)] = [new_key(), new_key()]


@pytest.mark.parametrize("change", [our_key_changed, the_same_key_twice, no_key])
def test_changed_keys_are_refused(change: Any) -> None:
    assert refused(forms.SHARE_KEYS, change) == ["secagg_keys"]


def test_a_neighbours_key_in_the_wrong_hands_shows_when_the_neighbours_are_known() -> None:
    """The control: without a list the device cannot tell, and goes on."""
    devices = members(5)
    known = tuple(device.signer.public for device in devices)
    twist = Server(forms.SHARE_KEYS, devices[0].node, a_neighbours_key_changed)
    add_up(devices, twist)
    # What the neighbour sealed is not for these keys; a server that seals anew itself would not show.
    assert len([records for records in devices[0].seen if records]) == 2
    named = [replace(device, settings=replace(SETTINGS, secagg_peers=known), codes=[]) for device in devices]
    add_up(named, twist)
    assert named[0].codes == ["secagg_keys"]
    assert len(named[0].seen) == 1
    again = [replace(device, codes=[]) for device in named]
    assert is_moved_by(add_up(again), expected(again))


def test_a_stranger_among_known_neighbours_is_refused() -> None:
    devices = members(4)
    known = tuple(device.signer.public for device in devices[:3])
    named = [replace(device, settings=replace(SETTINGS, secagg_peers=known)) for device in devices]
    assert add_up(named).sums == []
    assert [device.codes for device in named[:3]] == [["secagg_keys"]] * 3


def test_shares_that_were_not_sealed_for_us_are_refused() -> None:
    def swapped(values: dict[str, Any]) -> None:
        values["srcs"] = [*values["srcs"][1:], values["srcs"][0]]

    def made_up(values: dict[str, Any]) -> None:
        values["ctxts"] = [b"gAAAAA" for _ in values["ctxts"]]

    def fewer(values: dict[str, Any]) -> None:
        values["srcs"], values["ctxts"] = values["srcs"][:1], values["ctxts"][:1]

    assert refused(forms.COLLECT, swapped) == ["secagg_keys"]
    assert refused(forms.COLLECT, made_up) == ["secagg_keys"]
    assert refused(forms.COLLECT, fewer) == ["secagg_too_few"]


# --- order


def stage(session: Session, values: dict[str, Any], number: int = 1, run: str = RUN) -> Any:
    record = Record(forms.RECORD, "config", tuple(values), tuple(values.values()))
    return session.receive(Task("t", run, number, "train", (record,)))


TERMS = {
    "stage": "setup", "sample_num": 3, "share_num": 3, "threshold": 2, "clipping_range": 8.0,
    "target_range": 4194304, "mod_range": 2**32, "max_weight": 1000.0,
}  # fmt: skip


@pytest.mark.parametrize("name", [forms.SHARE_KEYS, forms.COLLECT, forms.UNMASK, "made-up"])
def test_a_stage_that_was_not_begun_is_refused(name: str) -> None:
    """As after a restart: what was known is gone, and the server has to begin anew."""
    member = Member(1, 0.0)
    records = (Record(forms.RECORD, "config", ("stage",), (name,)),)
    assert member.answer(records, 1) is None
    assert member.codes == ["secagg_stage"]


def test_a_stage_of_another_round_or_run_ends_the_sum() -> None:
    for number, run in ((2, RUN), (1, "8")):
        member = Member(1, 0.0)
        assert isinstance(stage(member.session, TERMS), Release)
        records = (Record(forms.RECORD, "config", ("stage",), (forms.SHARE_KEYS,)),)
        assert member.answer(records, number, run) is None
        assert member.answer(records, 1) is None
        assert member.codes == ["secagg_stage"] * 2


def test_no_second_update_under_the_same_masks() -> None:
    """After the update of a sum another task in between is not masked with what masked that one."""
    device = members(3)[0]
    others = members(3)[1:]
    add_up(
        [device, *others], Server(forms.UNMASK, device.node, lambda values: values.update(stage="made-up"))
    )
    arrays = Record("arrays", "arrays", ("w",), (np.zeros(3, np.float32),))
    plain = device.answer((arrays,), 1)
    assert plain is not None
    assert [record.name for record in plain] == ["arrays", "metrics"]


def test_without_a_sum_nothing_leaves_when_the_operator_wants_one() -> None:
    device = members(1, secagg_required=True)[0]
    arrays = Record("arrays", "arrays", ("w",), (np.zeros(3, np.float32),))
    assert device.answer((arrays,), 1) is None
    assert device.codes == ["secagg_required"]
    devices = members(3, secagg_required=True)
    assert is_moved_by(add_up(devices), expected(devices))


def test_an_update_that_says_no_number_of_examples_has_no_weight() -> None:
    devices = members(4)
    devices[0].examples = 0
    add_up(devices)
    assert devices[0].codes == ["too_few_examples"]


def test_what_is_secret_is_random() -> None:
    """The control for all that is above: with the same randomness the shares are the same."""
    asked: list[int] = []

    def counted(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    devices = members(3)
    devices[0].session = Session(SETTINGS, devices[0].signer, counted)
    add_up(devices)
    # A seed of 32 bytes; one further term of each polynomial for 48 and 320 padded bytes.
    assert asked == [32, 48, 320]
    assert bytes_text(b"") != ""
