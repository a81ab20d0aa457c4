# SPDX-License-Identifier: Apache-2.0
"""The pages for people: each link leads somewhere, each page that the code names exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import ROOT
from homebound.config import reference

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"\bdocs/[a-z-]+\.(?:md|json)\b")


def anchors(page: Path) -> set[str]:
    """What a heading can be linked by, as code hosts make it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path, text: str) -> Iterator[str]:
    """Links of a page that lead nowhere. Other hosts are not asked."""
    for target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        found = page.parent / path if path else page
        if not found.exists():
            yield f"{page.name}: {target}"
        elif anchor and found.suffix == ".md" and anchor not in anchors(found):
            yield f"{page.name}: {target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert list(broken(page, page.read_text(encoding="utf-8"))) == []


def test_a_planted_link_is_found() -> None:
    text = "[a](docs/nowhere.md) [b](docs/runbooks.md#nobody) [c](docs/runbooks.md#homeboundblind)"
    assert len(list(broken(ROOT / "README.md", text))) == 2


def test_pages_that_the_code_names_exist() -> None:
    """A hint that sends an operator to a page which is not there helps nobody."""
    folders = ("daemon", "units", "dashboards", "packaging")
    files = [
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".yml", ".catalog", ".service", ".toml")
        and not {"node_modules", "bpf_objects"} & set(path.parts)
    ]
    named = {name for path in files for name in NAMED.findall(path.read_text(encoding="utf-8"))}
    assert {"docs/configure.md", "docs/install.md"} <= named  # the control: hints are found
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_every_setting_has_its_row() -> None:
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    for entry in reference.declarations():
        table = page.partition(f"## [{entry.section}]" if entry.section else "## Top level")[2]
        assert f"| `{entry.name}` |" in table.partition("\n## ")[0], entry.key


def test_operators_pages_are_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [
        path.name for path in PAGES if path.parent.name == "docs" and f"docs/{path.name}" not in readme
    ]
    assert missing == []
