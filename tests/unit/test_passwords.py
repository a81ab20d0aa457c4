# SPDX-License-Identifier: Apache-2.0
"""passwords.py: a line fits its password and no other, and a file that is none is refused with its line."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from homebound import passwords
from homebound.cli.main import root
from homebound.errors import ConfigError

PASSWORD = "correct horse 23"
LINE = passwords.line("prometheus", PASSWORD, lambda count: b"\x17" * count)


def test_a_line_fits_its_password_alone() -> None:
    known = passwords.parse(f"# who may ask\n\n{LINE}\n{passwords.line('anna', 'another horse 5')}\n")
    assert passwords.fit(known, "prometheus", PASSWORD)
    assert passwords.fit(known, "anna", "another horse 5")
    assert not passwords.fit(known, "anna", PASSWORD)
    assert not passwords.fit(known, "prometheus", PASSWORD + "4")
    assert not passwords.fit(known, "nobody", PASSWORD)
    assert not passwords.fit(known, "", "")
    assert PASSWORD not in LINE


def test_the_same_password_gives_another_line_each_time() -> None:
    assert passwords.line("a", PASSWORD) != passwords.line("a", PASSWORD)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "has no line"),
        ("# nothing\n", "has no line"),
        (f"{LINE}\nprometheus:{PASSWORD}\n", "line 2 is no line"),
        (LINE.replace("scrypt", "plain"), "line 1 is no line"),
        (LINE.replace(":16384:", ":16383:"), "line 1 is no line"),
        (LINE.replace(":16384:", ":1073741824:"), "line 1 is no line"),  # would take all memory
        (LINE[:-5], "line 1 is no line"),
        (LINE + ":", "line 1 is no line"),
        (f"{LINE}\n{LINE}", "line 2 names prometheus again"),
    ],
)
def test_a_file_that_is_none(text: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted) as caught:
        passwords.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "password"), [("", PASSWORD), ("a:b", PASSWORD), ("a b", PASSWORD), ("a", "short")]
)
def test_a_name_or_password_that_will_not_do(name: str, password: str) -> None:
    with pytest.raises(ConfigError):
        passwords.line(name, password)


def test_the_verb_prints_a_line_that_fits() -> None:
    done = CliRunner().invoke(root, ["password-line", "prometheus"], input=f"{PASSWORD}\n")
    assert done.exit_code == 0, done.output
    assert passwords.fit(passwords.parse(done.output), "prometheus", PASSWORD)
    assert CliRunner().invoke(root, ["password-line", "prometheus"], input="").exit_code != 0
