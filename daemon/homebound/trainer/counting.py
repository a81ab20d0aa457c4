# SPDX-License-Identifier: Apache-2.0
"""Counts the examples that the app draws through PyTorch's DataLoader, for the guard's least number of them.

The app is in the same process and could change this count as it could any other: it keeps a careless app, or
a federation that asks for tiny batches, from an update of a few records; a hostile app is only held by the
noise. An app that takes its records by other means is not counted here; then its own word is all there is.
Imports nothing of ours. Source: torch/utils/data/dataloader.py of 2.13 (_BaseDataLoaderIter._next_index).
"""

from __future__ import annotations

import sys
from typing import Any

# Beyond this it does not matter how many more there are: guard.min_examples is never larger.
ENOUGH = 65536


class Examples:
    """Different examples that were drawn since begin(). ``count`` is None when no loader was used."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, int]] = set()
        # While a dataset is kept here, its id() is nobody else's.
        self._datasets: dict[int, Any] = {}
        self._known = True
        self._attached = False

    @property
    def count(self) -> int | None:
        return len(self._seen) if self._known and self._datasets else None

    def begin(self) -> None:
        """Count anew, from the first loader that is asked after this."""
        self._seen.clear()
        self._datasets.clear()
        self._known = True
        self._attach()

    def add(self, dataset: Any, index: Any) -> None:
        """An example, or a batch of them, by number. A dataset that is a mere stream has no numbers."""
        indices = index if isinstance(index, list | tuple) else [index]
        self._datasets[id(dataset)] = dataset
        if not all(isinstance(number, int) for number in indices):
            self._known = False
        elif len(self._seen) < ENOUGH:
            self._seen.update((id(dataset), number) for number in indices)

    def _attach(self) -> None:
        """Stand between loaders and their samplers, once PyTorch is there. Does nothing where it is not."""
        loading = sys.modules.get("torch.utils.data.dataloader")
        iterator = getattr(loading, "_BaseDataLoaderIter", None)
        if self._attached or iterator is None:
            return
        draw, add = iterator._next_index, self.add

        def counted(loader: Any) -> Any:
            index = draw(loader)
            add(loader._dataset, index)
            return index

        iterator._next_index = counted
        self._attached = True
