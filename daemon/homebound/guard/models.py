# SPDX-License-Identifier: Apache-2.0
"""A look at the federation's model before the app trains it: is it built to copy single records? Pure.

The known construction (Fowl et al. 2022, "Robbing the Fed"; Boenisch et al. 2023, "When the curious abandon
honesty") makes the rows of a linear layer measure one and the same thing and gives each its own threshold.
Records then fall into bins, and the difference of two neighbouring rows' changes is the record between them.
Rows that point one way with many thresholds have no honest use. Other constructions, and this one well
disguised, pass here: what bounds them all is the noise. May import: checks, records, numpy.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from homebound.guard import checks
from homebound.guard.checks import Refusal
from homebound.records import Array, Records, RefusalCode

# A layer with fewer rows has few bins; rows of fewer numbers (3 by 3 filters) can be alike by training.
LEAST_ROWS, LEAST_COLUMNS = 8, 16
# Cosine from which two rows point one way; of two random rows of 16 numbers one pair in 10^20 does.
PARALLEL = 0.999
# Rows that all others are compared with, evenly spaced.
REFERENCES = 16

Floats = NDArray[np.floating[Any]]


def check_model(records: Records) -> None:
    """No layer of the model is an imprint. Only after checks.check_finite(). Refusal imprint."""
    for record in checks.arrays(records):
        for weight, bias in itertools.pairwise(record.values):
            if _is_layer(weight, bias) and is_imprint(weight.reshape(len(weight), -1), bias):
                raise Refusal(RefusalCode.IMPRINT)


def _is_layer(weight: Array, bias: Array) -> bool:
    """Whether two arrays in a row are weights [rows, ...] and biases [rows] of a layer of some size."""
    return (
        weight.dtype.kind == bias.dtype.kind == "f"
        and weight.ndim >= 2
        and bias.shape == weight.shape[:1]
        and len(weight) >= LEAST_ROWS
        and weight.size >= LEAST_COLUMNS * len(weight)
    )


def is_imprint(weights: Floats, biases: Floats) -> bool:
    """Whether many of the rows [rows, columns] point one way and differ in where they cut it."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        lengths = np.sqrt(np.einsum("ij,ij->i", weights, weights, dtype=np.float64, casting="unsafe"))
        alive = np.flatnonzero((lengths > 0) & np.isfinite(lengths))
        if len(alive) < LEAST_ROWS:
            return False
        chosen = alive[np.unique(np.linspace(0, len(alive) - 1, REFERENCES).astype(int))]
        cosines = (
            weights[alive] @ weights[chosen].T if len(alive) < len(weights) else weights @ weights[chosen].T
        )
        cosines = np.abs(cosines / lengths[alive, None] / lengths[chosen])
        thresholds = biases[alive] / lengths[alive]
    return any(_differs(thresholds[column > PARALLEL]) for column in cosines.T)


def _differs(thresholds: Floats) -> bool:
    """Whether there are so many different ones that they sort records."""
    return len(np.unique(np.round(thresholds, 6))) >= LEAST_ROWS
