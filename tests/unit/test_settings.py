# SPDX-License-Identifier: Apache-2.0
"""settings.py: the declarations are complete, the defaults keep their own bounds, JSON brings all back."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Annotated, Any, get_args, get_origin

import pytest
from annotated_types import Predicate
from hypothesis import given
from hypothesis import strategies as st

from homebound import valuekinds
from homebound.config.reference import declarations
from homebound.settings import (
    AppSettings,
    DataSettings,
    FederationSettings,
    GuardSettings,
    MetricsSettings,
    Settings,
    TrainerSettings,
    from_json,
    to_json,
)
from homebound.valuekinds import endpoint


def make(**changes: Any) -> Settings:
    required: dict[str, Any] = {
        "federation": FederationSettings(address="superlink.example.org:8000"),
        "app": AppSettings(path="/app", fab_sha256="0" * 64, tree_sha256="1" * 64),
        "data": DataSettings(path="/data"),
    }
    return Settings(**(required | changes))


def test_json_brings_defaults_back() -> None:
    assert from_json(to_json(make())) == make()


def test_json_brings_everything_back() -> None:
    original = make(
        name="edge-1",
        mode="observe",
        loader="bcc",
        require=("namespaces", "landlock"),
        app=AppSettings(
            path="/app",
            fab_sha256="2" * 64,
            tree_sha256="3" * 64,
            node_config={"text": "ü\x00", "whole": 1 << 60, "number": 0.1, "yes": True},
        ),
        trainer=TrainerSettings(groups=("video", "render"), preload=(), warm=False),
        guard=GuardSettings(clip_norm=0.5, metrics={}),
        metrics=MetricsSettings(address="::1", port=1),
    )
    back = from_json(to_json(original))
    assert back == original
    assert isinstance(back.trainer.groups, tuple)
    assert back.app.node_config["yes"] is True


@given(st.floats(min_value=1e-300, max_value=1e300), st.dictionaries(st.text(), st.integers(0, 9)))
def test_json_keeps_every_number_and_name(clip_norm: float, metrics: dict[str, int]) -> None:
    original = make(guard=GuardSettings(clip_norm=clip_norm, metrics=metrics))
    assert from_json(to_json(original)) == original


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().mode = "observe"  # type: ignore[misc]


def test_wrong_json_is_a_bug_that_shows() -> None:
    with pytest.raises(TypeError):
        from_json(to_json(make()).replace(b'"poll_seconds"', b'"pool_seconds"'))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("superlink.example.org:1", ("superlink.example.org", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fd00::1:2]:443", ("fd00::1:2", 443)),
    ],
)
def test_endpoint_is_split(text: str, wanted: tuple[str, int]) -> None:
    assert endpoint(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "host", "host:", ":80", "host:0", "host:65536", "host:x", "::1:80", "[::1]", "[host]:80", "1.2.3:80",
     "999.1.1.1:80", "https://host:80", "host:80/path", "a b:80", "[fe80::1%eth0]:80", "host:80\n"],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text comes from three places
        endpoint(text)


def test_host_and_port_of_the_federation() -> None:
    federation = FederationSettings(address="[::1]:8000")
    assert (federation.host, federation.port) == ("::1", 8000)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("/a/b", True),
        ("/", True),
        ("/a..b", True),
        ("a", False),
        ("", False),
        ("/a/../b", False),
        ("/a\0", False),
    ],
)
def test_paths(text: str, good: bool) -> None:
    assert valuekinds.is_path(text) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [("127.0.0.1", True), ("::1", True), ("0.0.0.0", True), ("::", True), ("192.0.2.1", True),
     ("fe80::1%eth0", False), ("192.0.2.1:80", False), ("localhost", False), ("", False)],
)  # fmt: skip
def test_addresses(text: str, good: bool) -> None:
    assert valuekinds.is_address(text) is good


def predicates(annotation: Any) -> list[Predicate]:
    found = [entry for entry in get_args(annotation) if isinstance(entry, Predicate)]
    if get_origin(annotation) is not Annotated:
        found += [entry for argument in get_args(annotation) for entry in predicates(argument)]
    return found


@pytest.mark.parametrize("entry", list(declarations()), ids=lambda entry: entry.key)
def test_every_setting_says_what_it_is(entry: Any) -> None:
    assert entry.help.endswith(".")
    assert entry.required == (entry.example is not None)
    for predicate in predicates(entry.annotation):
        assert predicate.func.__name__ in valuekinds.PREDICATE_FORMS
        assert predicate.func(entry.example if entry.required else entry.default)


def test_roles_read_settings_without_the_checking_library() -> None:
    code = "import sys, homebound.settings; print({'pydantic', 'click', 'rich', 'flwr'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
