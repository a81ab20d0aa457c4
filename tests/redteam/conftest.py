# SPDX-License-Identifier: Apache-2.0
"""Raw records for the apps that hide them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from redteam.hiding import FILE, RECORDS


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with RECORDS pictures, as a device's data folder has them."""
    folder = tmp_path_factory.mktemp("records")
    np.save(folder / FILE, load_digits().data[:RECORDS])
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The same sums in the same order on every machine."""
    torch.set_num_threads(1)
