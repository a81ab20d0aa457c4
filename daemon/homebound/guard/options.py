# SPDX-License-Identifier: Apache-2.0
"""What the supervisor tells the guard at its start, read from a descriptor that it passes.

May import: books.chain, settings, errors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from homebound.books.chain import Head
from homebound.errors import InternalError
from homebound.settings import GuardSettings


@dataclass(frozen=True)
class Options:
    """The settings that the guard needs. ``warm``: the trainer stays between tasks. ``anchor``: the newest
    entry of the ledger that the supervisor was told of."""

    guard: GuardSettings
    round_timeout_seconds: float
    warm: bool
    anchor: Head = Head()  # noqa: RUF009 - frozen, as a number is


def read_options(document: bytes) -> Options:
    """Options from a JSON object: all fields of GuardSettings, round_timeout_seconds, warm and anchor.

    The settings were checked before, so a wrong document is a bug: InternalError.
    """
    try:
        values = json.loads(document)
        timeout, warm = float(values.pop("round_timeout_seconds")), bool(values.pop("warm", True))
        anchor = Head(**values.pop("anchor", {}))
        return Options(GuardSettings(**values), timeout, warm, anchor)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InternalError(f"the guard cannot read its settings: {error}", "please report this") from error
