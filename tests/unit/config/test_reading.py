# SPDX-License-Identifier: Apache-2.0
"""reading.py, layers.py and reference.py: order, masking, provenance, and every mistake at once."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from homebound.apptree import tree_sha256
from homebound.config import reference
from homebound.config.layers import Places
from homebound.config.problems import Problem
from homebound.config.reading import load, read, shown
from homebound.errors import ConfigError
from homebound.settings import GuardSettings, Settings, TrainerSettings, sections

HASH = "0123456789abcdef" * 4


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """An /etc/homebound and a /usr/lib/homebound, a fit app and a fit data folder."""
    found = Places(etc=tmp_path / "etc", vendor=tmp_path / "vendor")
    (found.etc / "conf.d").mkdir(parents=True)
    (found.vendor / "conf.d").mkdir(parents=True)
    app, data = tmp_path / "app", tmp_path / "data"
    app.mkdir()
    (app / "pyproject.toml").write_text('[tool.flwr.app.components]\nclientapp = "m:app"\n')
    data.mkdir(mode=0o755)
    (data / "one").write_text("1")
    (data / "one").chmod(0o644)
    (found.etc / "homebound.toml").write_text(f"""
        [federation]
        address = "127.0.0.1:8000"
        insecure = true
        [app]
        path = "{app}"
        fab_sha256 = "{HASH}"
        tree_sha256 = "{tree_sha256(app)}"
        [data]
        path = "{data}"
        """)
    return found


def add(places: Places, text: str, name: str = "50-test.toml") -> Path:
    path = places.etc / "conf.d" / name
    path.write_text(text)
    return path


def problems(places: Places) -> list[Problem]:
    return list(read(None, places).problems)


def problem(places: Places) -> Problem:
    (only,) = problems(places)
    return only


# --- what is right ---------------------------------------------------------------------------------


def test_defaults_stand_where_nothing_is_said(places: Places) -> None:
    settings = load(None, places)
    assert settings.federation.address == "127.0.0.1:8000"
    assert settings.trainer == TrainerSettings()
    assert settings.guard == GuardSettings()


def test_a_whole_number_will_do_for_a_number(places: Places) -> None:
    add(places, "guard.clip_norm = 2")
    value = load(None, places).guard.clip_norm
    assert value == 2.0
    assert isinstance(value, float)


def test_lists_become_tuples(places: Places) -> None:
    add(places, 'require = ["seccomp"]\ntrainer.preload = ["torch", "numpy"]')
    settings = load(None, places)
    assert settings.require == ("seccomp",)
    assert settings.trainer.preload == ("torch", "numpy")


def test_the_app_gets_its_values_with_their_types(places: Places) -> None:
    add(places, 'app.node_config = { path = "x", size = 3, rate = 0.5, yes = true, "with space" = "" }')
    wanted = {"path": "x", "size": 3, "rate": 0.5, "yes": True, "with space": ""}
    assert dict(load(None, places).app.node_config) == wanted


# --- layers ----------------------------------------------------------------------------------------


def test_later_files_win_and_each_value_knows_its_file(places: Places) -> None:
    vendor = places.vendor / "homebound.toml"
    vendor.write_text(
        "guard.clip_norm = 9\nguard.noise_multiplier = 9\nmetrics.port = 9\ncanary.interval_seconds = 9"
    )
    main = places.etc / "homebound.toml"
    main.write_text("guard.noise_multiplier = 8\nmetrics.port = 8\n" + main.read_text())
    late = add(places, "metrics.port = 6", "90-late.toml")
    early = add(places, "metrics.port = 7\nguard.clip_norm = 7", "10-early.toml")
    reading = read(None, places)
    assert [reading.values[key] for key in ("metrics.port", "guard.clip_norm", "guard.noise_multiplier")] == [
        6,
        7,
        8,
    ]
    assert reading.origins["metrics.port"] == str(late)
    assert reading.origins["guard.clip_norm"] == str(early)
    assert reading.origins["guard.noise_multiplier"] == str(main)
    assert reading.origins["canary.interval_seconds"] == str(vendor)
    assert reading.origins["guard.quantum_bits"] == "default"
    assert reading.files == (str(vendor), str(main), str(early), str(late))


def test_drop_ins_of_vendor_and_administrator_share_one_order(places: Places) -> None:
    (places.vendor / "conf.d" / "40-a.toml").write_text("metrics.port = 40")
    (places.vendor / "conf.d" / "60-c.toml").write_text("metrics.port = 60")
    add(places, "metrics.port = 50", "50-b.toml")
    assert load(None, places).metrics.port == 60


def test_what_is_missing_is_to_be_added_to_the_administrators_file(places: Places) -> None:
    (places.vendor / "homebound.toml").write_text("[federation]\n[data]\n")
    (places.etc / "homebound.toml").write_text("")
    assert {problem.file for problem in problems(places)} == {str(places.etc / "homebound.toml")}


def test_a_file_of_the_same_name_hides_the_vendors(places: Places) -> None:
    (places.vendor / "conf.d" / "60-c.toml").write_text("metrics.port = 60\nmode = 'observe'")
    add(places, "metrics.port = 61", "60-c.toml")
    settings = load(None, places)
    assert (settings.metrics.port, settings.mode) == (61, "enforce")


def test_a_link_to_dev_null_masks(places: Places) -> None:
    (places.vendor / "conf.d" / "60-c.toml").write_text("metrics.port = 60")
    assert load(None, places).metrics.port == 60
    (places.etc / "conf.d" / "60-c.toml").symlink_to("/dev/null")
    reading = read(None, places)
    assert reading.values["metrics.port"] == 10977
    assert not any("60-c.toml" in file for file in reading.files)


def test_tables_merge_by_key_and_lists_are_replaced(places: Places) -> None:
    add(places, 'trainer.preload = ["torch", "numpy"]\n[guard.metrics]\nloss = 3\nf1 = 1', "10.toml")
    second = add(places, "trainer.preload = []\n[guard.metrics]\nloss = 4", "20.toml")
    reading = read(None, places)
    assert reading.values["trainer.preload"] == ()
    assert reading.values["guard.metrics"] == {"loss": 4, "f1": 1}
    assert shown(reading)["guard.metrics.loss"] == {"value": 4, "origin": str(second)}
    assert shown(reading)["guard.metrics.f1"]["origin"].endswith("10.toml")


@pytest.mark.parametrize("name", [".hidden.toml", "50.toml~", "50.conf", "50.toml.dpkg-old"])
def test_other_names_are_no_drop_ins(places: Places, name: str) -> None:
    add(places, "metrics.port = 1", name)
    assert load(None, places).metrics.port == 10977


def test_a_file_given_by_hand_takes_the_place_of_the_administrators(places: Places, tmp_path: Path) -> None:
    add(places, "metrics.port = 1")
    mine = tmp_path / "mine" / "device.toml"
    (mine.parent / "conf.d").mkdir(parents=True)
    mine.write_text((places.etc / "homebound.toml").read_text())
    (mine.parent / "conf.d" / "a.toml").write_text("metrics.port = 2")
    assert load(mine, places).metrics.port == 2
    (mine.parent / "device.toml.d").mkdir()
    (mine.parent / "device.toml.d" / "a.toml").write_text("metrics.port = 3")
    assert load(mine, places).metrics.port == 3


def test_a_file_given_by_hand_must_exist(places: Places, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist"):
        load(tmp_path / "nowhere.toml", places)


def test_no_configuration_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, Places(etc=tmp_path, vendor=tmp_path))
    assert "there is no configuration" in caught.value.message
    assert "show-config --reference" in caught.value.hint


# --- mistakes --------------------------------------------------------------------------------------


def test_five_mistakes_give_five_lines(places: Places, tmp_path: Path) -> None:
    first = add(places, 'mode = "enforced"\nguard.clip_nrom = 1.0\ntrainer.warm = "yes"', "10.toml")
    second = add(places, f'metrics.address = "eth0"\ndata.path = "{tmp_path}/nowhere"', "20.toml")
    with pytest.raises(ConfigError) as caught:
        load(None, places)
    assert caught.value.exit_status == 78
    assert sorted(caught.value.message.splitlines()) == sorted(
        [
            f'{first}: mode = "enforced": wanted "enforce" or "observe"',
            f"{first}: guard.clip_nrom = 1.0: no such key; the nearest is guard.clip_norm",
            f'{first}: trainer.warm = "yes": wanted true or false',
            f'{second}: metrics.address = "eth0": wanted {sections_form("metrics.address")}',
            f'{second}: data.path = "{tmp_path}/nowhere": does not exist; '
            "make the folder or correct data.path",
        ]
    )
    assert "5 lines" in caught.value.hint


def sections_form(key: str) -> str:
    (found,) = (reference.form(entry.annotation) for entry in reference.declarations() if entry.key == key)
    return found


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("guard.clip_nrom = 1", "guard.clip_nrom", "the nearest is guard.clip_norm"),
        ("nmae = 'x'", "nmae", "the nearest is name"),
        ("[federaton]\naddress = 'a:1'", "federaton", "the nearest is federation"),
        ("clip_norm = 1", "clip_norm", "the nearest is guard.clip_norm"),
        ("trainer.noise_multiplier = 1", "trainer.noise_multiplier", "the nearest is guard.noise_multiplier"),
        ("noise_multiplyer = 1", "noise_multiplyer", "the nearest is guard.noise_multiplier"),
        ("data.zzz = 1", "data.zzz", "known here: path"),
        ("'quoted key' = 1", '"quoted key"', "known here: name, mode"),
    ],
)
def test_an_unknown_key_is_told_the_nearest(places: Places, text: str, key: str, nearest: str) -> None:
    file = add(places, text)
    found = problem(places)
    assert (found.file, found.key) == (str(file), key)
    assert found.wanted.startswith(f"no such key; {nearest}")


@pytest.mark.parametrize(
    ("text", "key", "value", "wanted"),
    [
        ("metrics.port = '9100'", "metrics.port", '"9100"', "a whole number from 1 to 65535"),
        ("metrics.port = 9100.0", "metrics.port", "9100.0", "a whole number from 1 to 65535"),
        ("metrics.port = true", "metrics.port", "true", "a whole number from 1 to 65535"),
        ("metrics.port = 0", "metrics.port", "0", "a whole number from 1 to 65535"),
        ("trainer.warm = 1", "trainer.warm", "1", "true or false"),
        ("guard.clip_norm = 0", "guard.clip_norm", "0", "a number above 0"),
        ("guard.clip_norm = inf", "guard.clip_norm", "inf", "a number above 0"),
        ("guard.clip_norm = nan", "guard.clip_norm", "nan", "a number above 0"),
        ("guard.clip_norm = true", "guard.clip_norm", "true", "a number above 0"),
        ("guard.noise_multiplier = -0.1", "guard.noise_multiplier", "-0.1", "a number from 0 up"),
        ("name = 'Edge 1'", "name", '"Edge 1"', "1 to 32 of a-z, 0-9 and -"),
        ("name = 2026-01-01", "name", "2026-01-01", "1 to 32 of a-z, 0-9 and -"),
        ("require = 'seccomp'", "require", '"seccomp"', "a list of"),
        (
            "require = ['seccomp', 'x']",
            "require[1]",
            '"x"',
            '"namespaces", "seccomp", "landlock", "cgroup-bpf" or "bpf-lsm"',
        ),
        ("trainer.groups = [1]", "trainer.groups[0]", "1", "a string"),
        ("guard = 3", "guard", "3", "a table [guard]"),
        ("[[guard]]\nclip_norm = 1", "guard", "[{clip_norm = 1}]", "a table [guard]"),
        ("guard.metrics.loss = '2'", "guard.metrics.loss", '"2"', "a whole number from 0 to 9"),
        ("app.node_config.x = [1]", "app.node_config.x", "[1]", "a string, a number or true or false"),
        (
            "app.node_config.x = 12:00:00",
            "app.node_config.x",
            "12:00:00",
            "a string, a number or true or false",
        ),
        ("data.path = 'data'", "data.path", '"data"', "an absolute path with no .. in it"),
        ("data.path = '/srv/../etc'", "data.path", '"/srv/../etc"', "an absolute path with no .. in it"),
        ("app.path = './app'", "app.path", '"./app"', "an absolute path with no .. in it"),
        (
            "federation.address = 'host'",
            "federation.address",
            '"host"',
            "host:port, 192.0.2.1:port or [IPv6]:port",
        ),
        ("app.fab_sha256 = 'ABC'", "app.fab_sha256", '"ABC"', "64 lower-case hexadecimal digits"),
        ("metrics.address = 'eth0'", "metrics.address", '"eth0"', "an IP address"),
    ],
)
def test_a_wrong_value_is_told_what_is_wanted(
    places: Places, text: str, key: str, value: str, wanted: str
) -> None:
    file = add(places, text)
    found = problem(places)
    assert (found.file, found.key, found.value) == (str(file), key, value)
    assert found.wanted.startswith(f"wanted {wanted}")


def test_everything_required_is_asked_for_at_once(places: Places) -> None:
    main = places.etc / "homebound.toml"
    main.write_text("[federation]\ninsecure = true")
    found = {entry.key: entry for entry in problems(places)}
    assert set(found) == {"federation.address", "app.path", "app.fab_sha256", "app.tree_sha256", "data.path"}
    assert all(entry.file == str(main) and entry.wanted.startswith("is missing") for entry in found.values())


def test_a_file_that_is_no_toml_names_the_line_and_hides_no_other_mistake(places: Places) -> None:
    bad = places.etc / "homebound.toml"
    bad.write_text("[federation]\naddress = 'a:1'\n\n  oops\n")
    other = add(places, "mode = 3")
    found = problems(places)
    assert [entry.file for entry in found] == [str(bad), str(other)]
    assert "line 4" in str(found[0])


def test_a_file_that_is_no_text(places: Places) -> None:
    add(places, "").write_bytes(b"name = '\xff'")
    assert "is not UTF-8 at byte 8" in str(problem(places))


@pytest.mark.parametrize("depth", [250, 5000])
def test_a_file_that_is_nested_too_deeply(places: Places, depth: int) -> None:
    add(places, f"name = {'[' * depth}{']' * depth}")
    assert len(problems(places)) == 1


def test_a_folder_for_a_file(places: Places) -> None:
    (places.etc / "conf.d" / "x.toml").mkdir()
    assert "is not a file" in str(problem(places))


def test_a_broken_link(places: Places) -> None:
    (places.etc / "conf.d" / "x.toml").symlink_to("nowhere")
    assert "cannot be read: No such file" in str(problem(places))


def test_a_file_that_everybody_can_change(places: Places) -> None:
    path = add(places, "metrics.port = 1")
    assert problems(places) == []
    path.chmod(0o666)
    assert "can be changed by everybody" in str(problem(places))


def test_a_value_cannot_flood_or_steer_a_terminal(places: Places) -> None:
    add(places, 'name = "' + "x" * 500 + '"\nmode = "\\u001b[31m\\u009b"')
    lines = [str(entry) for entry in problems(places)]
    assert all(len(line) < 300 and line.isprintable() for line in lines)


def test_the_environment_changes_nothing(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(None, places)
    for key in ("MODE", "HOMEBOUND_MODE", "GUARD__CLIP_NORM", "HOMEBOUND_GUARD_CLIP_NORM"):
        monkeypatch.setenv(key, "observe")
    assert load(None, places) == before


# --- the reference ---------------------------------------------------------------------------------


def uncommented() -> dict[str, Any]:
    return tomllib.loads(re.sub(r"(?m)^#(?=[a-z])", "", reference.reference()))


def test_the_reference_file_is_the_one_that_the_settings_give() -> None:
    written = (ROOT / "packaging" / "homebound.toml").read_text()
    assert written == reference.reference(), (
        "run: homebound show-config --reference > packaging/homebound.toml"
    )


def test_the_reference_as_it_stands_sets_nothing() -> None:
    assert all(value == {} for value in tomllib.loads(reference.reference()).values())


def test_the_reference_shows_every_setting_with_its_default() -> None:
    document = uncommented()
    for entry in reference.declarations():
        table = document[entry.section] if entry.section else document
        wanted = entry.example if entry.required else entry.default
        assert table.pop(entry.name) == (list(wanted) if isinstance(wanted, tuple) else wanted)
    assert all(document.pop(name) == {} for name in sections())
    assert document == {}


def test_the_reference_without_its_marks_is_a_right_configuration(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text(re.sub(r"(?m)^#(?=[a-z])", "", reference.reference()))
    reading = read(file, Places(vendor=tmp_path), host=False)
    assert reading.problems == ()
    assert isinstance(reading.settings, Settings)
    assert reading.settings.guard == GuardSettings()
    assert all(len(line) <= 110 for line in reference.reference().splitlines())


def test_every_setting_can_be_shown(places: Places) -> None:
    reading = read(None, places)
    assert set(reading.values) == {entry.key for entry in reference.declarations()}
    document = "\n".join(f"{key} = {reference.toml(entry['value'])}" for key, entry in shown(reading).items())
    back = tomllib.loads(document)
    assert back["guard"]["metrics"] == dict(GuardSettings().metrics)
    assert set(dataclasses.asdict(load(None, places))) == {key.split(".")[0] for key in reading.values}
    assert shown(reading)["name"] == {"value": "default", "origin": "default"}
