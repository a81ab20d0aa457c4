# SPDX-License-Identifier: Apache-2.0
"""The verbs of `homebound ledger`: look at what left, check that nothing of it was changed, hand it on.

What they print goes through terminal.py. An exported document can be verified on another machine, without
the device: it holds what was hashed, the signatures and the public key.
May import: books.anchor, books.chain, click, cli.options, config, errors, books.ledger, books.signing,
cli.terminal, view.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from homebound.books import chain
from homebound.books.chain import Entry, Fault, Head
from homebound.cli.options import SCHEMA, config_option, json_option
from homebound.cli.terminal import draw, print_json
from homebound.errors import HomeboundError, UsageError, ViolationPresent

# What an exported document calls itself.
FORM = "homebound ledger"
HASH = re.compile(r"[0-9a-f]{64}")

file_option = click.option(
    "--file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read FILE, a ledger or an exported one, in place of the device's own.",
)


@dataclass(frozen=True)
class Copy:
    """All of a ledger, read once. ``known``: its newest entry and its key as root keeps them elsewhere."""

    path: Path
    entries: tuple[Entry, ...]
    key: str
    damage: tuple[Fault, ...] = ()
    known: tuple[Head, str] = (Head(), "")

    @property
    def head(self) -> Head:
        return Head(self.entries[-1].number, self.entries[-1].hash) if self.entries else Head()

    def verify(self, head: Head, key: str) -> tuple[Fault, ...]:
        """All faults; ``head`` and ``key`` are known from elsewhere or empty."""
        from homebound.books.signing import Verifier  # here, because only this verb needs it

        faults = chain.verify(self.entries, head, Verifier(key or self.key).is_signed)
        if key and key != self.key:
            faults = (Fault(0, "it names another key than the one that is known"), *faults)
        return (*self.damage, *faults)


@click.group()
def ledger() -> None:
    """Look at what left this device."""


@ledger.command()
@config_option
@file_option
@json_option
def show(config: Path | None, file: Path | None, as_json: bool) -> None:
    """Print all entries."""
    from homebound import view

    copy = _whole(_read(config, file))
    entries = [asdict(entry) for entry in copy.entries]
    if as_json:
        print_json({"schema": SCHEMA, "entries": entries})
    else:
        draw([view.ledger(entries)])


@ledger.command()
@config_option
@file_option
@click.option("--head", metavar="NUMBER:HASH", help="The newest entry as you know it, from the journal.")
@click.option("--key", metavar="HEX", help="The public key as you know it.")
@json_option
def verify(config: Path | None, file: Path | None, head: str | None, key: str | None, as_json: bool) -> None:
    """Check that no entry was changed, removed, moved or cut off."""
    copy = _read(config, file)
    known = _head(head) if head else copy.known[0]
    faults = copy.verify(known, key or copy.known[1])
    if as_json:
        print_json(
            {
                "schema": SCHEMA,
                "whole": not faults,
                "head": asdict(copy.head),
                "key": copy.key,
                "known_head": asdict(known),
                "faults": [asdict(fault) for fault in faults],
            }
        )
    else:
        for fault in faults:
            click.echo(f"entry {fault.number} {fault.problem}" if fault.number else fault.problem)
    if faults:
        raise ViolationPresent(
            f"the ledger {copy.path} is not as it was written", "keep it, and ask who could write to it"
        )
    if not as_json:
        click.echo(f"whole: {copy.head.number} entries, head {copy.head.hash}")
        click.echo(f"signed by {copy.key}")
        if not known.number:
            click.echo("whether its end was cut off cannot be told: give --head from the journal")


@ledger.command()
@config_option
@file_option
@json_option
def export(config: Path | None, file: Path | None, as_json: bool) -> None:
    """Print everything as one JSON document that `verify --file` takes elsewhere."""
    del as_json  # there is no other form
    copy = _whole(_read(config, file))
    print_json(
        {
            "schema": SCHEMA,
            "form": FORM,
            "key": copy.key,
            "head": asdict(copy.head),
            "entries": [asdict(entry) for entry in copy.entries],
        }
    )


def _read(config: Path | None, file: Path | None) -> Copy:
    """A ledger or an export, as far as it can be read. HomeboundError if that is not at all."""
    if file is not None and file.is_file():
        with file.open("rb") as opened:
            if opened.read(1) == b"{":
                return _read_export(file)
    from homebound.books.ledger import open_reader  # here: other verbs need no SQLite

    path, known = file, (Head(), "")
    if path is None:
        path, known = _own(config)
    found: list[Entry] = []
    with closing(open_reader(path)) as reader:
        try:
            key = reader.public_key()
            found.extend(reader.entries())
        except HomeboundError as error:
            return Copy(path, tuple(found), "", (Fault(0, f"the file is damaged: {error.message}"),), known)
    return Copy(path, tuple(found), key, known=known)


def _own(config: Path | None) -> tuple[Path, tuple[Head, str]]:
    """The device's own ledger, and what root keeps of it elsewhere."""
    from homebound.books import anchor
    from homebound.books.ledger import FILE
    from homebound.config.reading import read

    values = read(config, host=False).values
    folder = Path(values["paths.state"], values["name"])
    try:
        kept = anchor.load(folder / anchor.FILE)
    except PermissionError:
        kept = anchor.Anchor()  # opening the ledger says what is missing
    return folder / "guard" / FILE, (kept.head, kept.key)


def _read_export(file: Path) -> Copy:
    try:
        document = json.loads(file.read_bytes())
        if document["form"] != FORM or document["schema"] != SCHEMA:
            raise ValueError("another form")
        entries: Iterable[Any] = document["entries"]
        return Copy(file, tuple(chain.entry_from(entry) for entry in entries), str(document["key"]))
    except (ValueError, KeyError, TypeError) as error:
        raise HomeboundError(
            f"{file} is no exported ledger: {error}", "`homebound ledger export` makes one"
        ) from error


def _whole(copy: Copy) -> Copy:
    if copy.damage:
        raise HomeboundError(f"{copy.path}: {copy.damage[0].problem}", "run `homebound ledger verify`")
    return copy


def _head(text: str) -> Head:
    number, _, digest = text.partition(":")
    if not number.isdecimal() or HASH.fullmatch(digest) is None:
        raise UsageError(f"{text} is no head of a ledger", "NUMBER:HASH, as the journal has them")
    return Head(int(number), digest)
