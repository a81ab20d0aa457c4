# SPDX-License-Identifier: Apache-2.0
"""users.py: the host's user where there is one, a number of the role's own where not."""

from __future__ import annotations

import grp
import pwd

import pytest

from homebound.errors import ConfigError
from homebound.rooms import users

NOBODYS_ROLE = "no-such-role"


def test_a_role_without_a_user_gets_its_number() -> None:
    assert users.identity(NOBODYS_ROLE, 3, 60600) == (60603, 60603)


def test_without_numbers_the_user_must_exist() -> None:
    with pytest.raises(ConfigError, match="the user homebound-no-such-role does not exist"):
        users.identity(NOBODYS_ROLE, 3, 0)


def test_who_has_a_number() -> None:
    someone = pwd.getpwall()[0]
    assert users.name_of(someone.pw_uid) == someone.pw_name
    assert users.name_of(4294960000) == ""


def test_groups_by_name() -> None:
    someone = grp.getgrall()[0]
    assert users.group_numbers([someone.gr_name]) == (someone.gr_gid,)
    with pytest.raises(ConfigError, match="the group no-such-group does not exist"):
        users.group_numbers([someone.gr_name, "no-such-group"])
