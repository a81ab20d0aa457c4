# SPDX-License-Identifier: Apache-2.0
"""What the guard does for a secure sum, keys and masks, goes through behind the filter that it runs with."""

from __future__ import annotations

import pytest

from homebound.kernel import seccomp
from kernel.test_credit import behind_filter
from unit.guard.secagg.rig import Member, add_up, expected, is_moved_by, members

pytestmark = pytest.mark.root


def test_a_sum_behind_the_guards_filter() -> None:
    def run() -> list[str]:
        devices: list[Member] = members(3)
        strategy = add_up(devices)
        assert is_moved_by(strategy, expected(devices))
        return [code for device in devices for code in device.codes]

    assert behind_filter(seccomp.Profile.SEALED, run) == []
