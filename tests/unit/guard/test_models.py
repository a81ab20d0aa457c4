# SPDX-License-Identifier: Apache-2.0
"""The look at a federation's model: imprints are refused, what people train passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from homebound.guard import models
from homebound.guard.checks import Refusal
from homebound.records import Array, Records, RefusalCode
from unit.guard.rig import EXACT, MODEL, entries, honest_round, model, read, rig

ROWS, COLUMNS = 64, 100


def imprint(rows: int = ROWS, columns: int = COLUMNS, disguise: float = 0.0) -> tuple[Array, Array]:
    """Rows that all measure the mean, with thresholds spread over it. ``disguise``: noise on each row."""
    rng = np.random.default_rng(1)
    weights = np.full((rows, columns), 1 / columns) * (1 + disguise * rng.standard_normal((rows, columns)))
    return weights.astype(np.float32), -np.linspace(0.1, 0.9, rows, dtype=np.float32)


def refused(*arrays: Array) -> bool:
    try:
        models.check_model(model(*arrays))
    except Refusal as refusal:
        return refusal.code is RefusalCode.IMPRINT
    return False


def state(network: nn.Module) -> Records:
    return model(*(array.detach().numpy() for array in network.state_dict().values()))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_an_imprint_is_refused(kind: Any) -> None:
    weights, biases = imprint()
    assert refused(np.zeros(3, kind), weights.astype(kind), biases.astype(kind), np.zeros(2, kind))


def test_variants_are_refused() -> None:
    weights, biases = imprint()
    rng = np.random.default_rng(2)
    scaled = weights * np.linspace(0.1, 3, ROWS, dtype=np.float32)[:, None]
    assert refused(scaled, np.full(ROWS, -1, np.float32))  # one bias, thresholds by the rows' lengths
    assert refused(-weights, biases)
    assert refused(weights.reshape(ROWS, 4, 5, 5), biases)  # a convolution over the whole picture
    mixed = rng.standard_normal((4 * ROWS, COLUMNS)).astype(np.float32)
    mixed[::4], hidden = weights, rng.standard_normal(4 * ROWS).astype(np.float32)
    hidden[::4] = biases
    assert refused(mixed, hidden)  # hidden among three times as many
    assert refused(*imprint(disguise=0.02))


def test_what_carries_no_bins_passes() -> None:
    weights, biases = imprint()
    assert not refused(weights, np.zeros(ROWS, np.float32))
    assert not refused(np.zeros_like(weights), biases)
    assert not refused(weights)
    assert not refused(weights, biases[:-1])
    assert not refused(weights.astype(np.int64), biases)
    assert not refused(*imprint(rows=7))


def test_a_better_disguise_passes_and_is_left_to_the_noise() -> None:
    """Said openly: this look is no proof."""
    assert not refused(*imprint(disguise=0.2))


@pytest.mark.parametrize("seed", range(3))
def test_networks_pass_fresh_and_trained(seed: int) -> None:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.ReLU(), nn.BatchNorm2d(32), nn.Flatten(),
        nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    models.check_model(state(network))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    pictures, labels = torch.rand(64, 1, 8, 8), torch.randint(0, 10, (64,))
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(pictures), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    models.check_model(state(network))


def test_numbers_at_the_end_of_their_range_make_no_error() -> None:
    huge = np.finfo(np.float64).max
    assert not refused(np.full((8, 16), huge), np.arange(8.0))
    tiny = np.full((8, 16), np.finfo(np.float64).smallest_subnormal)
    assert isinstance(refused(tiny, np.arange(8.0)), bool)


def test_the_app_does_not_even_begin(tmp_path: Path) -> None:
    with rig(tmp_path, **EXACT) as guard:
        link = guard.trainer()
        guard.send_task(model(*imprint()))
        guard.refusal("imprint")
        guard.send_task(MODEL, "t2")
        guard.hear("started")
        assert read(link).header["task"] == "t2"
        (entry,) = entries(tmp_path)
        assert (entry.kind, entry.round) == ("refusal", 1)


def test_an_honest_model_goes_on(tmp_path: Path) -> None:
    """The control."""
    with rig(tmp_path, **EXACT) as guard:
        honest_round(guard, guard.trainer())
