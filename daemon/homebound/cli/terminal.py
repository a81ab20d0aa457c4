# SPDX-License-Identifier: Apache-2.0
"""How documents reach a person or a script: tables on a terminal, JSON on a pipe.

Draws what it is given and decides nothing. rich is loaded when there is something to draw.
May import: click, rich, view.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.table import Table as Grid

    from homebound.view import Table

WIDTH, TOP_WIDTH = 79, 119
STYLES = dict.fromkeys(("ok", "holds", "attached"), "green") | dict.fromkeys(
    ("NO", "OPEN", "OUT"), "bold red"
)


def print_json(document: object) -> None:
    """One document on standard output."""
    click.echo(json.dumps(document, indent=2))


def draw(tables: Sequence[Table]) -> None:
    """Tables on standard output: colour only on a terminal that was not told otherwise."""
    from rich.text import Text

    console = _console(WIDTH)
    for table in (table for table in tables if table.rows):
        title = [Text(f"\n{table.title}", style="bold")] if table.title else []
        with console.capture() as drawn:
            console.print(*title, _grid(table), sep="\n")
        for line in drawn.get().splitlines():
            click.echo(line.rstrip(), color=True)  # rich has decided about colour


def draw_again(frames: Iterable[Sequence[Table]]) -> None:
    """Each frame in the place of the one before, on a screen of its own; below one another on a pipe."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    if not sys.stdout.isatty():
        for tables in frames:
            draw(tables)
        return
    console = _console(TOP_WIDTH)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for tables in frames:
            shown = [table for table in tables if table.rows]
            parts = [part for table in shown for part in (Text(table.title, style="bold"), _grid(table))]
            live.update(Group(*parts), refresh=True)


def _console(most: int) -> Console:
    from rich.console import Console

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = min(most, shutil.get_terminal_size((most + 1, 24)).columns - 1)
    return Console(
        width=max(width, 40), color_system="auto" if colour else None, highlight=False, emoji=False
    )


def _grid(table: Table) -> Grid:
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, show_header=any(table.columns), pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        side: JustifyMethod = "right" if column.startswith(">") else "left"
        grid.add_column(Text(column.lstrip(">")), justify=side, overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return grid
