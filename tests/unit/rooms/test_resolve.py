# SPDX-License-Identifier: Apache-2.0
"""Names become addresses in a child with a time limit; addresses are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from homebound.errors import ServiceUnavailable
from homebound.rooms import resolve


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "192.0.2.7"])
def test_an_address_is_its_own_answer(host: str) -> None:
    assert resolve.addresses(host, seconds=0) == [host]


def test_a_name_of_this_host_is_found() -> None:
    assert "127.0.0.1" in resolve.addresses("localhost")


def test_a_name_that_nobody_has_says_what_to_do() -> None:
    with pytest.raises(ServiceUnavailable, match=r"no\.such\.host\.invalid") as raised:
        resolve.addresses("no.such.host.invalid")
    assert "federation.address" in raised.value.hint


def test_a_resolver_that_hangs_is_given_up() -> None:
    with pytest.raises(ServiceUnavailable):
        resolve.addresses("localhost", seconds=0.001)


def test_name_servers_are_read_as_the_resolver_does(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# x\nsearch a.b\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver\noptions x\n")
    assert resolve.nameservers(file) == ["192.0.2.1", "fe80::1"]
    assert resolve.nameservers(tmp_path / "missing") == []
