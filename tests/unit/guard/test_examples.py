# SPDX-License-Identifier: Apache-2.0
"""The least number of examples: by the app's word, by the loader's count, and by what is said of neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from homebound.guard import checks, release
from homebound.guard.checks import Refusal
from homebound.records import RefusalCode
from homebound.trainer.counting import Examples
from unit.guard.rig import EXACT, HONEST, MODEL, honest_round, metrics, read, rig, write

LEAST = 64
Pictures = Dataset[tuple[torch.Tensor, ...]]


def passes(counted: int | None, **said: Any) -> bool:
    try:
        checks.check_examples(MODEL + metrics(**said), counted, LEAST)
    except Refusal as refusal:
        return refusal.code is not RefusalCode.TOO_FEW_EXAMPLES
    return True


def test_both_words_count() -> None:
    assert passes(None, num_examples=64)
    assert not passes(None, num_examples=63)
    assert passes(64, num_examples=718)
    assert not passes(63, num_examples=718)
    assert not passes(718, num_examples=1)
    assert passes(64)
    assert not passes(None)
    assert not passes(None, loss=700)
    checks.check_examples(MODEL, None, 0)


@pytest.mark.parametrize("counted", [-1, True, 1.0, "64", [64]])
def test_a_count_that_is_none(counted: Any) -> None:
    with pytest.raises(Refusal) as caught:
        release.read_counted({"counted": counted})
    assert caught.value.code is RefusalCode.MALFORMED
    assert release.read_counted({"counted": 0}) == 0
    assert release.read_counted({}) is None


@pytest.mark.parametrize(("counted", "code"), [(8, "too_few_examples"), (64, "")])
def test_in_a_guards_process(tmp_path: Path, counted: int, code: str) -> None:
    with rig(tmp_path, **(EXACT | {"min_examples": LEAST})) as guard:
        link = guard.begin(MODEL)
        write(link, "update", {"task": "t1", "counted": counted}, HONEST)
        if code:
            guard.refusal(code)
        else:
            assert read(guard.gateway).kind == "release"
            guard.hear("released")
        honest_round(guard, link)


def test_an_evaluation_needs_no_number(tmp_path: Path) -> None:
    with rig(tmp_path, **(EXACT | {"min_examples": LEAST})) as guard:
        write(guard.begin(MODEL, kind="evaluate"), "update", {"task": "t1"}, metrics(accuracy=0.5))
        assert read(guard.gateway).kind == "release"


# --- the trainer's count


@pytest.fixture
def examples() -> Any:
    """A counter that stands between PyTorch's loaders and their samplers, and nothing of it afterwards."""
    from torch.utils.data import dataloader

    before = dataloader._BaseDataLoaderIter._next_index
    found = Examples()
    found.begin()
    yield found
    dataloader._BaseDataLoaderIter._next_index = before  # type: ignore[method-assign]


def draw(dataset: Pictures, **words: Any) -> int:
    return sum(len(batch[0]) for batch in DataLoader(dataset, **words))


def pictures(count: int) -> Pictures:
    return TensorDataset(torch.zeros(count, 4))


def count(examples: Examples) -> int | None:
    return examples.count


def test_no_loader_no_count(examples: Examples) -> None:
    assert count(examples) is None


@pytest.mark.parametrize("words", [{}, {"batch_size": 7}, {"shuffle": True}, {"num_workers": 1}])
def test_examples_are_counted_once_however_often_they_are_drawn(
    examples: Examples, words: dict[str, Any]
) -> None:
    data = pictures(23)
    for _ in range(3):
        assert draw(data, **words) == 23
    assert count(examples) == 23


def test_datasets_add_up_and_a_part_is_a_part(examples: Examples) -> None:
    first, second = pictures(23), pictures(7)
    draw(Subset(first, range(5)))
    assert count(examples) == 5
    draw(second)
    assert count(examples) == 12
    examples.begin()
    assert count(examples) is None
    draw(second)
    assert count(examples) == 7


def test_a_loader_that_stopped_early(examples: Examples) -> None:
    next(iter(DataLoader(pictures(1000), batch_size=8)))
    assert count(examples) == 8


def test_a_stream_has_no_numbers(examples: Examples) -> None:
    class Stream(IterableDataset[torch.Tensor]):
        def __iter__(self) -> Any:
            return iter(torch.zeros(5, 1))

    assert len(list(DataLoader(Stream()))) == 5
    assert count(examples) is None
