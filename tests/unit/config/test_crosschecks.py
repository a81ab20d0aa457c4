# SPDX-License-Identifier: Apache-2.0
"""crosschecks.py: what only a look at the host tells. Each fault beside a configuration that is right."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from homebound import passwords
from homebound.config.layers import Places
from homebound.config.reading import load, read
from homebound.errors import ConfigError
from unit import devicefile
from unit.watcher.test_door import certificate


@pytest.fixture
def device(tmp_path: Path) -> Path:
    return devicefile.write(tmp_path)


def faults(device: Path, text: str = "") -> list[tuple[str, str]]:
    """Key and what is wrong, of the device's file with ``text`` as a drop-in."""
    folder = device.with_name(device.name + ".d")
    folder.mkdir(exist_ok=True)
    (folder / "test.toml").write_text(text)
    return [(entry.key, entry.wanted) for entry in read(device, Places(vendor=device.parent)).problems]


def test_the_device_is_right_as_it_is(device: Path) -> None:
    assert faults(device) == []


def remove_pyproject(app: Path) -> None:
    (app / "pyproject.toml").unlink()


def break_pyproject(app: Path) -> None:
    (app / "pyproject.toml").write_text("[tool\n")


def drop_component(app: Path) -> None:
    (app / "pyproject.toml").write_text("[tool.flwr.app]\n")


def flatten_component(app: Path) -> None:
    (app / "pyproject.toml").write_text("[tool.flwr.app]\ncomponents = 3\n")


def misname_component(app: Path) -> None:
    (app / "pyproject.toml").write_text('[tool.flwr.app.components]\nclientapp = "m.app"\n')


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (remove_pyproject, "has no pyproject.toml"),
        (break_pyproject, "has a pyproject.toml that is wrong"),
        (drop_component, "declares no clientapp"),
        (flatten_component, "declares no clientapp"),
        (misname_component, "declares a clientapp that is not MODULE:NAME"),
    ],
)
def test_an_app_that_is_none(device: Path, change: Callable[[Path], None], wanted: str) -> None:
    change(device.parent / "app")
    assert any(key == "app.path" and what.startswith(wanted) for key, what in faults(device))


def test_an_app_that_is_missing_is_told_once(device: Path) -> None:
    assert faults(device, f'app.path = "{device.parent}/none"') == [("app.path", "is not a folder")]


def test_an_app_that_was_changed_since_it_was_approved(device: Path) -> None:
    (device.parent / "app" / "m.py").write_text("app = 1\n")
    ((key, what),) = faults(device)
    assert key == "app.tree_sha256"
    assert what.endswith(" lies in app.path")


def test_files_that_are_named_must_be_there(device: Path, tmp_path: Path) -> None:
    text = """
        federation.root_certificates = "/nowhere/ca.pem"
        federation.node_key = "/nowhere/key.pem"
        trainer.python = "/nowhere/python"
        """
    assert [key for key, _ in faults(device, text)] == [
        "federation.root_certificates",
        "federation.node_key",
        "trainer.python",
    ]
    pem = tmp_path / "x.pem"
    pem.write_text("")
    pem.chmod(0o600)
    text = f"""
        federation.root_certificates = "{pem}"
        federation.node_key = "{pem}"
        trainer.python = "{sys.executable}"
        """
    assert faults(device, text) == []


def test_a_key_that_everybody_can_read(device: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("")
    key.chmod(0o604)
    assert faults(device, f'federation.node_key = "{key}"') == [
        ("federation.node_key", "can be read by everybody")
    ]
    key.chmod(0o640)
    assert faults(device, f'federation.node_key = "{key}"') == []


def test_others_on_the_network_get_nothing_without_being_asked_for(device: Path) -> None:
    what = "is not loopback, and nothing is set for metrics.certificate and metrics.passwords"
    for address in ("0.0.0.0", "::", "192.0.2.1", "2001:db8::1"):
        assert faults(device, f'metrics.address = "{address}"') == [("metrics.address", what)]
    for address in ("127.0.0.1", "127.8.8.8", "::1"):
        assert faults(device, f'metrics.address = "{address}"') == []
    assert faults(device, 'metrics = { address = "0.0.0.0", allow_plain = true }') == []


def test_certificate_and_passwords_make_a_public_address_right(device: Path, tmp_path: Path) -> None:
    pem, lines = certificate(tmp_path), tmp_path / "passwords"
    lines.write_text(passwords.line("prometheus", "correct horse 23"))
    for path in (pem, lines):
        path.chmod(0o640)
    text = f'metrics = {{ address = "0.0.0.0", certificate = "{pem}", passwords = "{lines}" }}'
    assert faults(device, text) == []
    ((key, what),) = faults(device, f'metrics = {{ address = "0.0.0.0", certificate = "{pem}" }}')
    assert (key, what) == ("metrics.address", "is not loopback, and nothing is set for metrics.passwords")
    for path in (pem, lines):
        path.chmod(0o644)
    assert faults(device, text) == [
        ("metrics.certificate", "holds a private key that everybody can read"),
        ("metrics.passwords", "can be read by everybody"),
    ]


def test_a_certificate_without_its_key(device: Path, tmp_path: Path) -> None:
    pem, other = certificate(tmp_path), tmp_path / "other"
    other.mkdir()
    only, key = pem.with_name("only.pem"), certificate(other)
    key.chmod(0o600)
    wrong = [("metrics.certificate", "cannot be used for TLS with its key")]
    assert faults(device, f'metrics.certificate = "{only}"') == wrong
    assert faults(device, f'metrics = {{ certificate = "{only}", key = "{key}" }}') == wrong
    assert faults(device, f'metrics.key = "{key}"') == [("metrics.key", "has no certificate")]
    pem.chmod(0o600)
    assert faults(device, f'metrics = {{ certificate = "{only}", key = "{pem}" }}') == []
    locked = tmp_path / "locked.pem"
    words = ["openssl", "ec", "-in", str(pem), "-aes256", "-passout", "pass:abc", "-out", str(locked)]
    subprocess.run(words, check=True, capture_output=True, timeout=20)
    assert faults(device, f'metrics = {{ certificate = "{only}", key = "{locked}" }}') == wrong


def test_a_file_of_passwords_that_is_none(device: Path, tmp_path: Path) -> None:
    lines = tmp_path / "passwords"
    lines.write_text("prometheus:secret\n")
    lines.chmod(0o600)
    assert faults(device, f'metrics.passwords = "{lines}"') == [
        ("metrics.passwords", "line 1 is no line of passwords")
    ]


def test_an_interpreter_must_be_executable(device: Path, tmp_path: Path) -> None:
    (tmp_path / "python").write_text("")
    assert faults(device, f'trainer.python = "{tmp_path}/python"') == [
        ("trainer.python", "cannot be executed")
    ]


def test_certificates_without_tls_are_a_contradiction(device: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    certificates = f'federation.root_certificates = "{tmp_path}/ca.pem"\n'
    assert faults(device, certificates) == []
    assert [key for key, _ in faults(device, certificates + "federation.insecure = true")] == [
        "federation.insecure"
    ]


def has_our_users() -> bool:
    return any(entry.pw_name == "homebound-trainer" for entry in pwd.getpwall())


@pytest.mark.skipif(has_our_users(), reason="this host has the users of homebound")
def test_users_that_do_not_exist_and_numbers_that_are_taken(device: Path) -> None:
    ((key, what),) = faults(device, "users.base = 0")
    assert key == "users.base"
    assert "does not exist" in what
    taken = next(entry for entry in pwd.getpwall() if entry.pw_uid >= 4)
    ((key, what),) = faults(device, f"users.base = {taken.pw_uid - 3}")
    assert key == "users.base"
    assert what.startswith("gives the ")


def test_groups_must_exist(device: Path) -> None:
    there = grp.getgrall()[-1].gr_name
    assert faults(device, f'trainer.groups = ["{there}"]') == []
    wanted = [("trainer.groups", "the group no-such-group does not exist")]
    assert faults(device, f'trainer.groups = ["{there}", "no-such-group"]') == wanted


@pytest.mark.parametrize("key", ["paths.state", "paths.run"])
def test_what_the_daemon_writes_lies_outside_the_data(device: Path, key: str) -> None:
    inside = device.parent / "data" / "sub"
    assert faults(device, f'{key} = "{inside}"') == [(key, "lies in data.path, which the trainer sees")]


def test_a_link_does_not_hide_that_it_lies_inside(device: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(device.parent / "data")
    assert [key for key, _ in faults(device, f'paths.state = "{tmp_path}/alias/x"')] == ["paths.state"]


def test_a_socket_path_that_is_too_long(device: Path) -> None:
    assert faults(device, f'paths.run = "/{"r" * 70}"') == []
    ((key, what),) = faults(device, f'paths.run = "/{"r" * 100}"')
    assert key == "paths.run"
    assert "too long" in what


@pytest.mark.parametrize("place", ["/usr/share", "/usr/lib/python3"])
def test_data_that_other_roles_would_see(device: Path, place: str) -> None:
    if not Path(place).is_dir():
        pytest.skip(f"this host has no {place}")
    found = [what for key, what in faults(device, f'data.path = "{place}"') if key == "data.path"]
    assert "lies in /usr, which not only the trainer sees" in found


def test_data_in_the_app_folder(device: Path) -> None:
    inside = device.parent / "app" / "data"
    inside.mkdir(mode=0o755)
    (inside / "one").write_text("1")
    (inside / "one").chmod(0o644)
    found = faults(device, f'data.path = "{inside}"')
    assert ("data.path", f"lies in {device.parent}/app, which not only the trainer sees") in found


def test_faults_of_the_data_folder_name_files_to_a_person_and_not_to_a_log(device: Path) -> None:
    (device.parent / "data" / "patient-7").symlink_to("/etc/hostname")
    os.mkfifo(device.parent / "data" / "patient-8")
    told = faults(device)
    assert told == [
        ("data.path", "patient-7 is a link that leads out of the folder"),
        ("data.path", "patient-8 is a FIFO, which leads to another process"),
    ]
    with pytest.raises(ConfigError) as caught:
        load(device, Places(vendor=device.parent))
    assert "patient" not in str(caught.value)
    assert "(2 such faults)" in caught.value.message


@pytest.mark.root
def test_the_trainer_must_be_able_to_read_the_data(device: Path) -> None:
    (device.parent / "data" / "one").chmod(0o600)
    ((key, what),) = faults(device)
    assert (key, what) == ("data.path", "one cannot be read by the trainer: Permission denied")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        ("guard.epsilon_limit = 0\nguard.run_epsilon_limit = 0\nguard.noise_multiplier = 0", []),
        ("guard.epsilon_limit = 5\nguard.run_epsilon_limit = 5\nguard.noise_multiplier = 1", []),
        ("guard.epsilon_limit = 10", [("guard.epsilon_limit", "allows no release: one costs 91.82")]),
        (
            "guard.noise_multiplier = 0\nguard.epsilon_limit = 0",
            [("guard.run_epsilon_limit", "allows no release: one has no bound without noise")],
        ),
        (
            "guard.noise_multiplier = 1e-200\nguard.epsilon_limit = 0",
            [("guard.run_epsilon_limit", "allows no release: one costs inf")],
        ),
    ],
)
def test_a_budget_that_allows_no_release(device: Path, text: str, wanted: list[tuple[str, str]]) -> None:
    """It would be refused at the first round, and a person would look for the reason in the app."""
    assert faults(device, text) == wanted
