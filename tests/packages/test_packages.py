# SPDX-License-Identifier: Apache-2.0
"""The packages in dist/: what is in them, lintian's word, bills of materials, the same when built again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT
from homebound import __version__

# The schema alone takes a minute on a machine that is busy otherwise.
pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]
DIST = ROOT / "dist"
PACKAGES = ("homebound", "homebound-trainer")


def package(name: str) -> Path:
    found = list(DIST.glob(f"{name}_*.deb"))
    assert len(found) == 1, "run make deb"
    return found[0]


def listing(name: str) -> list[str]:
    done = subprocess.run(["dpkg-deb", "-c", package(name)], capture_output=True, text=True, check=True)
    return [line.split()[5].removeprefix(".") for line in done.stdout.splitlines()]


def test_version_is_the_code_s() -> None:
    first = (ROOT / "packaging/debian/changelog").read_text().splitlines()[0]
    assert first.startswith(f"homebound ({__version__}) ")
    assert package("homebound").name.startswith(f"homebound_{__version__}_")


def test_contents() -> None:
    names = listing("homebound")
    wanted = (
        "/usr/bin/homebound", "/usr/lib/homebound/homebound.toml", "/usr/share/man/man1/homebound.1.gz",
        "/usr/share/man/man5/homebound.toml.5.gz", "/usr/share/man/man7/homebound-metrics.7.gz",
        "/lib/systemd/system/homebound.service", "/usr/lib/sysusers.d/homebound.conf",
        "/usr/lib/tmpfiles.d/homebound.conf", "/usr/lib/systemd/catalog/homebound.catalog",
        "/usr/share/bash-completion/completions/homebound", "/usr/share/zsh/vendor-completions/_homebound",
        "/usr/share/fish/vendor_completions.d/homebound.fish", "/etc/homebound/homebound.toml",
        "/usr/lib/systemd/system-preset/50-homebound.preset",
    )  # fmt: skip
    assert [name for name in wanted if name not in names and f"/usr{name}" not in names] == []
    objects = {Path(name).name for name in names if "/bpf_objects/" in name}
    assert objects - {""} >= {path.name for path in (ROOT / "daemon/homebound/bpf_objects").glob("*.o")}
    assert not [name for name in names if "/torch/" in name or "__pycache__" in name]
    assert [name for name in listing("homebound-trainer") if name.endswith("/torch/__init__.py")]


def test_configuration_is_a_conffile() -> None:
    done = subprocess.run(
        ["dpkg-deb", "--info", package("homebound"), "conffiles"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["/etc/homebound/homebound.toml"]


def test_lintian_finds_no_error() -> None:
    lines = (DIST / "lintian.txt").read_text().splitlines()
    assert [line for line in lines if line.startswith("E:")] == []


def test_lintian_sees_a_planted_fault(tmp_path: Path) -> None:
    control = tmp_path / "tree/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text("Package: planted\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n")
    subprocess.run(["dpkg-deb", "-b", tmp_path / "tree", tmp_path / "planted.deb"], check=True)
    done = subprocess.run(["lintian", tmp_path / "planted.deb"], capture_output=True, text=True, check=False)
    assert re.search("^E:", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", PACKAGES)
def test_bill_of_materials(name: str) -> None:
    (file,) = DIST.glob(f"{name}_*.cdx.json")
    document = json.loads(file.read_text())
    assert document["bomFormat"] == "CycloneDX"
    parts = {part["name"].lower() for part in document["components"]}
    assert ("torch" in parts) == (name == "homebound-trainer")
    assert ("flwr" in parts) == (name == "homebound")


VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
sys.exit(str(JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read()) or ""))
"""


def schema_fault(document: str) -> str:
    """What CycloneDX's own schema has against it; by the tool that build-deb.sh installed for itself."""
    words = [str(ROOT / "build/sbom-tool/bin/python"), "-c", VALIDATE]
    return subprocess.run(words, input=document, capture_output=True, text=True, check=False).stderr.strip()


@pytest.mark.parametrize("name", PACKAGES)
def test_bill_of_materials_fits_the_schema(name: str) -> None:
    (file,) = DIST.glob(f"{name}_*.cdx.json")
    assert schema_fault(file.read_text()) == ""
    assert "nonsense" in schema_fault(file.read_text().replace('"library"', '"nonsense"', 1))


@pytest.mark.parametrize(
    ("name", "module"), [("homebound", "homebound/guard/app"), ("homebound-trainer", "torch/nn/__init__")]
)
def test_what_is_compiled_at_installation_is_what_runs(name: str, module: str) -> None:
    """A small part of all files, because a small device compiles for minutes otherwise."""
    folder = "venv" if name == "homebound" else "trainer"
    take = f"dpkg-deb --fsys-tarfile {package(name)} | tar -xO ./usr/lib/homebound/{folder}/compile.txt"
    listed = subprocess.check_output(take, shell=True, text=True).splitlines()
    names = set(listing(name))
    assert set(listed) <= names
    assert [line for line in listed if line.endswith(f"/{module}.py")]
    assert len(listed) < len([line for line in names if line.endswith(".py")]) / 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_built_again_it_is_the_same(tmp_path: Path) -> None:
    """Another folder, another umask, another time."""
    os.umask(0o077)
    subprocess.run(
        ["packaging/setup/build-deb.sh", tmp_path / "out"],
        cwd=ROOT, env={**os.environ, "WORK": str(tmp_path / "other" / "place")},
        check=True, capture_output=True,
    )  # fmt: skip
    for name in PACKAGES:
        (again,) = (tmp_path / "out").glob(f"{name}_*.deb")
        assert _sum(again) == _sum(package(name)), f"{name} differs: compare with diffoscope"


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
