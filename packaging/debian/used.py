# SPDX-License-Identifier: Apache-2.0
"""Print the files of an environment that its programs load: used.py FOLDER PLACE NAME... imports each NAME.

FOLDER is where the environment lies now, PLACE where it will. Only these are compiled when a package is
installed: they are a sixth of all, and a small device would take minutes for the rest. NAME may be "train":
one step of PyTorch, which loads more than importing it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def train() -> None:
    """What an app does: a model, a loss, a step, some data in batches."""
    torch = importlib.import_module("torch")
    data = importlib.import_module("torch.utils.data")
    records = data.TensorDataset(torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long))
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for inputs, labels in data.DataLoader(records, batch_size=2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def main(folder: Path, place: Path, names: list[str]) -> None:
    """Import, and print what was loaded from ``folder``, sorted, at its later place."""
    for name in names:
        if name == "train":
            train()
        else:
            importlib.import_module(name)
    files = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    below = {Path(file).relative_to(folder) for file in files if file.startswith(f"{folder}/")}
    # Our own are few, and a role's first line should not wait for any of them.
    below |= {path.relative_to(folder) for path in folder.glob("lib/*/site-packages/homebound/**/*.py")}
    print("\n".join(sorted(str(place / path) for path in below if path.suffix == ".py")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
