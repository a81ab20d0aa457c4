# SPDX-License-Identifier: Apache-2.0
"""cli.py: exit statuses, two-line errors, JSON on every reading verb, colour, width, pipes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click
import pytest
from click.testing import CliRunner

from conftest import ROOT
from homebound import __version__, errors
from homebound.cli.main import EXIT_STATUS, main, root
from homebound.settings import from_json
from unit import devicefile


@pytest.fixture
def device(tmp_path: Path) -> Path:
    return devicefile.write(tmp_path)


# --- exit statuses and errors ------------------------------------------------------------------------


def every_error(
    kind: type[errors.HomeboundError] = errors.HomeboundError,
) -> Iterator[type[errors.HomeboundError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from every_error(below)


def test_every_exit_status_has_a_help_text() -> None:
    ours = {kind.exit_status for kind in every_error()}
    assert ours | {0, 130} == set(EXIT_STATUS)
    shown = CliRunner().invoke(root, ["--help"]).output
    for number, text in EXIT_STATUS.items():
        assert re.search(rf"(?m)^ +{number}  {re.escape(text)}$", shown)


def test_every_exit_status_is_below_those_of_shells() -> None:
    assert all(number < 125 or number == 130 for number in EXIT_STATUS)


def test_an_error_is_two_lines_and_its_status(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--config", str(tmp_path / "nowhere.toml")]) == 78
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"homebound: {tmp_path}/nowhere.toml does not exist\n  hint: correct --config\n"


@contextmanager
def verb(name: str, error: BaseException) -> Iterator[None]:
    """One more verb, which fails."""

    def fail() -> NoReturn:
        raise error

    root.add_command(click.Command(name, callback=fail))
    try:
        yield
    finally:
        del root.commands[name]


@pytest.mark.parametrize("words", [["--debug", "fails"], ["fails", "--debug"]])
def test_a_bug_is_one_line_and_a_traceback_only_when_asked_for(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with verb("fails", ValueError("two\nlines")):
        assert main(["fails"]) == 70
        assert capfd.readouterr().err == (
            "homebound: ValueError: two lines\n  hint: run it again with --debug and report that\n"
        )
        assert main(words) == 70
        assert "Traceback (most recent call last)" in capfd.readouterr().err


def plain_errors() -> list[type[errors.HomeboundError]]:
    """Those made of a message and a hint. Others make both themselves and are tried beside their words."""
    return [kind for kind in every_error() if kind.__init__ is errors.HomeboundError.__init__]


@pytest.mark.parametrize("kind", plain_errors(), ids=lambda kind: kind.__name__)
def test_every_error_ends_with_its_status(
    kind: type[errors.HomeboundError], capfd: pytest.CaptureFixture[str]
) -> None:
    with verb("fails", kind("this is wrong", "do that")):
        assert main(["fails"]) == kind.exit_status
    assert capfd.readouterr().err == "homebound: this is wrong\n  hint: do that\n"


def test_an_interrupt_ends_with_130_and_no_word(capfd: pytest.CaptureFixture[str]) -> None:
    with verb("waits", KeyboardInterrupt()):
        assert main(["waits"]) == 130
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "words", [["stats"], ["status", "--nope"], ["demo", "--devices", "none"], ["app-hash"]]
)
def test_a_wrong_command_line_is_status_2(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("homebound: ")
    assert second.startswith("  hint: homebound")
    assert second.endswith("--help")


def test_no_word_at_all_shows_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "check-config" in capfd.readouterr().out


def test_the_module_runs_and_gives_its_status() -> None:
    words = [sys.executable, "-m", "homebound", "status", "--name", "UPPER"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "homebound: UPPER is no name of a device"


def test_a_reader_that_has_enough_is_no_error() -> None:
    words = [sys.executable, "-m", "homebound", "show-config", "--reference"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 1


# --- --json ------------------------------------------------------------------------------------------


def verbs(
    group: click.Group = root, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, (*path, name))
        else:
            yield (*path, name), command


# A daemon, a log that is bytes, and a line for a file: no documents.
WITHOUT_JSON = (("run",), ("logs",), ("password-line",))


@pytest.mark.parametrize(
    ("path", "command"), [pytest.param(*entry, id="-".join(entry[0])) for entry in verbs()]
)
def test_every_reading_verb_has_json_and_every_verb_a_help(
    path: tuple[str, ...], command: click.Command, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--json" in options) != (path in WITHOUT_JSON)
    assert main([*path, "--help"]) == 0
    assert command.help
    assert command.help.splitlines()[0] in capfd.readouterr().out


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["schema"] == 1
    assert found["versions"]["homebound"] == __version__
    assert main(["version"]) == 0
    assert f"homebound {__version__}\n" in capfd.readouterr().out


def test_show_config_names_the_file_of_each_value(device: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", "-c", str(device), "--json"]) == 0
    settings = json.loads(capfd.readouterr().out)["settings"]
    assert settings["name"] == {"value": "edge", "origin": str(device)}
    assert settings["guard.metrics.loss"] == {"value": 2, "origin": "default"}
    assert main(["show-config", "-c", str(device)]) == 0
    shown = capfd.readouterr().out
    assert 'mode = "enforce"                          # default\n' in shown
    assert re.search(rf'(?m)^name = "edge"\s+# {device}$', shown)


def test_the_reference_is_printed_as_it_is_shipped(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", "--reference"]) == 0
    assert capfd.readouterr().out == (ROOT / "packaging" / "homebound.toml").read_text()


def test_check_config_says_right(device: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "-c", str(device)]) == 0
    assert f"right: {device}" in capfd.readouterr().out


def test_check_config_gives_all_mistakes_as_lines_and_as_json(
    device: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    device.write_text(device.read_text().replace('"edge"', '"Edge"') + "\nguard.clip_nrom = 1\n")
    assert main(["check-config", "-c", str(device)]) == 78
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["homebound", "homebound", "  hint"]
    assert main(["check-config", "-c", str(device), "--json"]) == 78
    found = json.loads(capfd.readouterr().out)
    assert found["right"] is False
    assert [entry["key"] for entry in found["problems"]] == ["name", "guard.clip_nrom"]
    assert set(found["problems"][0]) == {"file", "key", "value", "wanted", "hint"}


@pytest.mark.root
def test_check_config_attaches_every_program_and_leaves_nothing(
    device: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-config", "-c", str(device), "--attach", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert {entry["name"] for entry in found["programs"]} >= {"hb_egress", "hb_connect4", "hb_sock_create"}
    assert all(entry["attached"] for entry in found["programs"] if entry["need"] == "required")
    assert {entry["need"] for entry in found["programs"]} <= {"required", "wanted", "off"}
    name = f"homebound-check-{os.getpid()}"
    left = [path for top in ("/sys/fs/bpf", "/sys/fs/cgroup") for path in Path(top).rglob(name)]
    assert left == []


def test_app_hash_prints_lines_for_the_config(device: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["app-hash", str(ROOT / "examples" / "digits")]) == 0
    shown = capfd.readouterr().out
    assert re.fullmatch(r'fab_sha256 = "[0-9a-f]{64}"\ntree_sha256 = "[0-9a-f]{64}"\n', shown)
    assert main(["app-hash", str(device.parent / "data")]) == 78
    assert len(capfd.readouterr().err.splitlines()) == 2


# --- run ---------------------------------------------------------------------------------------------


def test_run_wants_root(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["run"]) == 77
    assert capfd.readouterr().err.endswith("  hint: sudo homebound run\n")


@pytest.mark.root
def test_run_hands_the_settings_to_the_supervisor(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, words: seen.append(words))
    assert main(["run", "-c", str(device)]) == 0
    (words,) = seen
    assert words[:6] == [sys.executable, "-s", "-P", "-m", "homebound.supervisor", "--settings-fd"]
    assert words[7:] == ["--config", str(device)]
    assert os.get_inheritable(int(words[6]))
    with os.fdopen(int(words[6]), "rb") as file:
        assert from_json(file.read()).name == "edge"


@pytest.mark.root
def test_run_tells_a_log_no_name_out_of_the_data(device: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (device.parent / "data" / "patient-7").symlink_to("/etc")
    assert main(["run", "-c", str(device)]) == 78
    assert "patient-7" not in capfd.readouterr().err
    assert main(["check-config", "-c", str(device)]) == 78
    assert "patient-7 is a link that leads out" in capfd.readouterr().err
