# SPDX-License-Identifier: Apache-2.0
"""doctor.py: what to do about the programs on security hooks follows from why they are not attached."""

from __future__ import annotations

import pytest

from homebound.cli.doctor import security_hooks

LISTED, UNLISTED = ("landlock", "bpf"), ("landlock", "yama")


def program(attached: bool, need: str, reason: str = "") -> dict[str, object]:
    return {"name": "hb_lsm_open", "attached": attached, "need": need, "reason": reason}


ON = program(True, "wanted")
OFF = program(False, "off", "switched off by the setting kernel.security_hooks")
BROKEN = program(False, "wanted", "the verifier refused it")


@pytest.mark.parametrize(
    ("programs", "modules", "result", "words"),
    [
        ([ON, ON], LISTED, "good", ""),
        ([OFF, OFF], LISTED, "bad", "kernel.security_hooks = true"),
        ([ON, BROKEN], LISTED, "bad", "homebound status"),
        ([OFF, BROKEN], LISTED, "bad", "homebound status"),
        ([BROKEN, BROKEN], UNLISTED, "bad", "boot with lsm="),
        ([BROKEN, BROKEN], None, "unknown", "securityfs"),
    ],
)
def test_advice_about_security_hooks(
    programs: list[dict[str, object]], modules: tuple[str, ...] | None, result: str, words: str
) -> None:
    found = security_hooks(programs, modules)
    assert found.result == result
    assert words in found.advice
