# SPDX-License-Identifier: Apache-2.0
"""Splits scikit-learn's digits, unevenly and by label, among devices: one folder each, and one for the test.

python make_data.py --out DIR --devices 2   makes digits.npz in DIR/device-0, DIR/device-1 and DIR/test
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from digits import task
from numpy.typing import NDArray

# Dirichlet concentration: with 2.0 a device has two or three times as many of some digits as another has.
CONCENTRATION = 2.0
LEAST = 32


def split(labels: NDArray[np.int64], devices: int, seed: int) -> list[NDArray[np.int64]]:
    """Indices for each device; every label is dealt out in shares drawn anew. No device has under LEAST."""
    draw = np.random.default_rng(seed)
    while True:
        parts: list[list[int]] = [[] for _ in range(devices)]
        for label in range(task.CLASSES):
            members = draw.permutation(np.flatnonzero(labels == label))
            shares = draw.dirichlet([CONCENTRATION] * devices)
            cuts = (np.cumsum(shares)[:-1] * len(members)).astype(int)
            for part, chunk in zip(parts, np.split(members, cuts), strict=True):
                part.extend(chunk.tolist())
        if min(map(len, parts)) >= min(LEAST, len(labels) // (4 * devices)):
            return [np.array(sorted(part), dtype=np.int64) for part in parts]


def write(folder: Path, x: NDArray[np.float32], y: NDArray[np.int64]) -> None:
    """One npz file that task.load_file() reads."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / task.FILE, x=x, y=y)


def main() -> None:
    """Write all folders and say what is in them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    x, y = task.load_sklearn(test=False)
    for number, chosen in enumerate(split(y, arguments.devices, arguments.seed)):
        write(arguments.out / f"device-{number}", x[chosen], y[chosen])
        counts = np.bincount(y[chosen], minlength=task.CLASSES).tolist()
        print(f"device-{number}: {len(chosen)} records, by label {counts}")
    write(arguments.out / "test", *task.load_sklearn(test=True))
    print(f"test: {len(task.load_sklearn(test=True)[1])} records that no device has")


if __name__ == "__main__":
    main()
