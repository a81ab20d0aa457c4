# SPDX-License-Identifier: Apache-2.0
"""Sessions of the guard under Flower's own SecAgg+ workflow, in one process, by a grid that hands over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat as compat
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.supercore.task_identity import TaskIdentity

from homebound.books.signing import Signer
from homebound.gateway.messages import MASKED, as_content
from homebound.guard import release
from homebound.guard.checks import Refusal, bucket
from homebound.guard.release import Release, Task
from homebound.guard.secagg import forms
from homebound.guard.secagg.session import Session
from homebound.recorddict import to_records
from homebound.records import Record, Records
from homebound.settings import GuardSettings

SETTINGS = GuardSettings(clip_norm=100.0, noise_multiplier=0.0, quantum_bits=20, min_examples=0)
RUN = "7"
TOLERANCE = 1e-3
MODEL = [np.zeros((3, 4), np.float32), np.ones(5, np.float32), np.full(1, 2.0, np.float32)]


@dataclass
class Member:
    """One device: a session of its guard, and an app that adds ``step`` to every weight."""

    node: int
    step: float
    examples: int = 100
    settings: GuardSettings = SETTINGS
    signer: Signer = field(default_factory=lambda: Signer(os.urandom(32)))
    codes: list[str] = field(default_factory=list)
    seen: list[Records] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.session = Session(self.settings, self.signer, os.urandom)

    def answer(self, records: Records, round_number: int, run: str = RUN) -> Records | None:
        """What leaves for a message; None when it is refused."""
        task = Task("t", run, round_number, "train", records)
        try:
            wanted = self.session.receive(task)
            if isinstance(wanted, Task):
                wanted = self.session.mask(self._train(wanted))
        except Refusal as refusal:
            self.session.forget()
            self.codes.append(refusal.code.value)
            return None
        self.seen.append(wanted.records)
        return wanted.records

    def _train(self, task: Task) -> Release:
        arrays = next(record for record in task.records if record.kind == "arrays")
        assert arrays.name == "arrays"
        moved = tuple(np.asarray(value + np.float32(self.step)) for value in arrays.values)
        metrics = Record("metrics", "metrics", ("loss", "num-examples"), (0.51234, self.examples))
        decision = release.decide(task, (replace(arrays, values=moved), metrics), self.settings, np.zeros)
        assert isinstance(decision, Release), decision
        return decision


# What a server may do to a message on its way: (stage, node, values) -> None, changing the values.
Twist = Callable[[str, int, dict[str, Any]], None]


def honest(stage: str, node: int, values: dict[str, Any]) -> None:
    del stage, node, values


@dataclass
class Grid:
    """Takes messages to members. ``lost``: who is away from which stage on."""

    members: dict[int, Member]
    twist: Twist = honest
    lost: dict[int, str] = field(default_factory=dict)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        del timeout
        return [self._deliver(message) for message in messages]

    def _deliver(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        values = dict(message.content.config_records[MASKED])
        stage = str(values[forms.STAGE])
        if self._is_away(node, stage):
            return Message(Error(0, "away"), reply_to=message)
        self.twist(stage, node, values)
        content = RecordDict(dict(message.content.items()))
        content[MASKED] = ConfigRecord(values)
        answer = self.members[node].answer(to_records(content), int(message.metadata.group_id))
        if answer is None:
            return Message(Error(0, "no update"), reply_to=message)
        return Message(as_content(answer), reply_to=message)

    def _is_away(self, node: int, stage: str) -> bool:
        order = [forms.SETUP, forms.SHARE_KEYS, forms.COLLECT, forms.UNMASK]
        return node in self.lost and order.index(stage) >= order.index(self.lost[node])


class Sampled(FedAvg):
    """Flower's averaging, with all devices in each round; keeps what it was given."""

    def __init__(self, nodes: Iterable[int]) -> None:
        super().__init__()
        self.nodes = list(nodes)
        self.sums: list[list[Any]] = []
        self.told: list[dict[str, Any]] = []

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        return [(SimpleNamespace(node_id=node), FitIns(parameters, {"lr": 0.1})) for node in self.nodes]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        self.sums.append(parameters_to_ndarrays(results[0][1].parameters))
        self.told = [{"examples": result.num_examples, **result.metrics} for _, result in results]
        return super().aggregate_fit(server_round, results, failures)


def add_up(members: Iterable[Member], twist: Twist = honest, lost: dict[int, str] | None = None,
           number: int = 1, **terms: Any) -> Sampled:  # fmt: skip
    """One round of Flower's workflow; the strategy with the sums that it was given."""
    known = {member.node: member for member in members}
    strategy = Sampled(known)
    context = LegacyContext(
        Context(run_id=7, node_id=0, node_config={}, state=RecordDict(), run_config={}),
        ServerConfig(num_rounds=1), strategy,
    )  # fmt: skip
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({"current_round": number})
    context.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(
        ndarrays_to_parameters(MODEL), keep_input=True
    )
    workflow = SecAggPlusWorkflow(**{"num_shares": 1.0, "reconstruction_threshold": 0.7, **terms})
    # What a ServerApp's process is told at its start, and every message says.
    with patch.multiple(TaskIdentity, _task_id=1, _run_id=7, _node_id=1):
        workflow(Grid(known, twist, lost or {}), context)  # type: ignore[arg-type]
    return strategy


def members(count: int, **settings: Any) -> list[Member]:
    """Devices with large numbers, as Flower gives them, and different steps and weights."""
    own = replace(SETTINGS, **settings)
    return [Member(2**63 + 11 * place, 0.5 * (place + 1), 64 * (place + 1), own) for place in range(count)]


def expected(active: Iterable[Member]) -> float:
    """The weighted mean of the steps; weights are what the guard let out of the numbers of examples."""
    weights = [(bucket(member.examples), member.step) for member in active]
    return sum(weight * step for weight, step in weights) / sum(weight for weight, _ in weights)


def is_moved_by(strategy: Sampled, step: float) -> bool:
    """Whether the one sum is the model and this step, everywhere."""
    (found,) = strategy.sums
    return all(np.allclose(got, was + step, atol=TOLERANCE) for got, was in zip(found, MODEL, strict=True))
