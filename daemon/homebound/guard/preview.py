# SPDX-License-Identifier: Apache-2.0
"""What would leave: an update from a file through the guard's own steps, described and not sent.

A short-lived process of its own, because the command line never loads the guard: a JSON document on standard
input, one on standard output. It spends nothing and writes nothing; the noise is drawn anew each time.
``python -m homebound.guard.preview``. May import: the rest of this room, records, settings, books.epsilon,
errors.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from homebound.books.epsilon import epsilon
from homebound.errors import HomeboundError
from homebound.guard import bits, budget, checks, privacy, release
from homebound.guard.checks import Refusal
from homebound.guard.noise import gaussian
from homebound.guard.release import Release, Task
from homebound.records import Array, Record, Records
from homebound.settings import GuardSettings

# The name that flwr's strategies give to the record of a model.
RECORD = "arrays"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What to look at. ``task`` is the model before the round; without it the update is the change itself."""

    settings: GuardSettings
    update: Path
    task: Path | None
    metrics: dict[str, int | float]
    timeout: float


def main() -> int:
    """Describe; exit status 1 with a line on standard error when the files cannot be read."""
    document = json.loads(sys.stdin.read())
    wanted = Wanted(
        GuardSettings(**document["guard"]),
        Path(document["update"]),
        Path(document["task"]) if document["task"] else None,
        document["metrics"],
        document["timeout"],
    )
    try:
        found = describe(wanted, gaussian)
    except HomeboundError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_status
    sys.stdout.write(json.dumps(found, allow_nan=False))
    return 0


def describe(wanted: Wanted, noise: privacy.Noise) -> dict[str, Any]:
    """The document. HomeboundError when a file is none of arrays."""
    update = read_arrays(wanted.update)
    if wanted.task:
        task = read_arrays(wanted.task)
    else:
        task = (dataclasses.replace(update[0], values=tuple(np.zeros_like(a) for a in update[0].values)),)
    if wanted.metrics:
        update += (
            Record(checks.METRICS_RECORD, "metrics", tuple(wanted.metrics), tuple(wanted.metrics.values())),
        )
    decision = release.decide(Task("preview", "preview", 0, "train", task), update, wanted.settings, noise)
    if isinstance(decision, Refusal):
        return {"refused": decision.code.value}
    return {"refused": None, **_described(decision, update, wanted)}


def read_arrays(path: Path) -> Records:
    """One record with the arrays of a .safetensors or .npz file, in the order of their names."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                arrays: dict[str, Array] = dict(archive)
        else:
            arrays = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise HomeboundError(f"{path} cannot be read as .safetensors or .npz: {error}") from error
    names = tuple(sorted(arrays))
    return (Record(RECORD, "arrays", names, tuple(arrays[name] for name in names)),)


def _described(decision: Release, update: Records, wanted: Wanted) -> dict[str, Any]:
    settings, payload = wanted.settings, release.payload(decision)
    how = privacy.mechanism(settings)
    factor = 1.0 if not decision.clipped else settings.clip_norm / decision.norm
    said = bits.metrics(update, settings.metrics)
    return {
        "arrays": [_array(key, array) for record in checks.arrays(decision.records)
                   for key, array in zip(record.keys, record.values, strict=True)],
        "metrics": [
            {"name": key, "given": wanted.metrics[key], "leaves": value, "bits": round(said[key], 1)}
            for record in decision.records if record.kind == "metrics"
            for key, value in zip(record.keys, record.values, strict=True)
        ],
        "payload_bytes": payload.size,
        "norm": decision.norm,
        "clip_norm": settings.clip_norm,
        "clip_factor": factor,
        "noise": how.deviation,
        "step": how.quantum,
        "cost": budget.as_detail(budget.cost(settings)),
        "epsilon_alone": _finite(epsilon(budget.cost(settings), settings.delta)),
        "delta": settings.delta,
        "bits": {
            **{way: _finite(round(count, 1)) for way, count in decision.bits.items()},
            "refusal": bits.REFUSAL_BITS,
            "timing": round(bits.timing(wanted.timeout), 1),
        },
    }  # fmt: skip


def _array(name: str, array: Array) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "bytes": array.nbytes,
        "noised": privacy.is_private(array),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
