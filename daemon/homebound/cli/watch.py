# SPDX-License-Identifier: Apache-2.0
"""The verbs that look on: `homebound events` and `homebound top`, both from the status socket.

May import: click, cli.options, cli.follow, cli.statusclient, cli.terminal, view (Table).
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from homebound.cli import follow, statusclient
from homebound.cli.options import SCHEMA, config_option
from homebound.cli.terminal import draw_again
from homebound.view import Table

# Often enough for a person; the daemon keeps the last 64 attempts between two looks.
LOOK_SECONDS = 0.5
TOP_SECONDS = 1.0
Command = TypeVar("Command", bound=Callable[..., Any])


def device_options(command: Command) -> Command:
    """Which daemon to ask, as `homebound status` has it."""
    command = click.option("--run-folder", type=click.Path(path_type=Path), help="Run folder of it.")(command)
    command = click.option("--name", help="Device to ask; without it the configured one.")(command)
    return config_option(command)


@click.command()
@device_options
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def events(
    config: Path | None, name: str | None, run_folder: Path | None, follows: bool, as_json: bool
) -> None:
    """Print the last refused attempts, oldest first."""
    for found in _changes(statusclient.locate(config, name, run_folder), follows):
        if found.gap and not as_json:
            click.echo("... more than the daemon keeps; the counters have them all")
        for event in found.events:
            if as_json:
                click.echo(json.dumps({"schema": SCHEMA, "gap": found.gap, **event}))
            else:
                click.echo(follow.line(event))


@click.command()
@device_options
@click.option("-n", "--updates", type=click.IntRange(1), help="End after so many.")
@click.option("--json", "as_json", is_flag=True, help="Print one status document a line.")
def top(
    config: Path | None, name: str | None, run_folder: Path | None, updates: int | None, as_json: bool
) -> None:
    """Show roles, bytes and refused attempts, anew each second."""
    documents = _looks(statusclient.locate(config, name, run_folder), updates)
    if not as_json:
        draw_again(_frames(documents, sys.stdout.isatty()))
        return
    for document in documents:
        click.echo(json.dumps(document))


def _changes(place: tuple[Path, str], follows: bool) -> Iterator[follow.Fresh]:
    before = None
    while True:
        after = statusclient.ask(*place)
        yield follow.fresh(before, after)
        if not follows:
            return
        before = after
        time.sleep(LOOK_SECONDS)


def _looks(place: tuple[Path, str], updates: int | None) -> Iterator[dict[str, Any]]:
    for count in itertools.count(1):
        asked = time.time()
        yield {**statusclient.ask(*place), "asked": asked}
        if count == updates:
            return
        time.sleep(TOP_SECONDS)


def _frames(documents: Iterator[dict[str, Any]], on_terminal: bool) -> Iterator[list[Table]]:
    """``on_terminal`` is asked before drawing begins: then standard output is another one."""
    before = None
    for after in documents:
        columns = shutil.get_terminal_size().columns if on_terminal else 0
        yield follow.top(before, after, after["asked"], columns)
        before = after
