# SPDX-License-Identifier: Apache-2.0
"""`homebound release`: the last release as the ledger has it, or what would leave for an update in a file.

The guard's own code describes the update, in a child: this process never loads it. Nothing is spent.
May import: books.chain, click, cli.options, config, errors, books.ledger, settings, cli.terminal, view.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from homebound.cli.options import SCHEMA, config_option, json_option
from homebound.cli.terminal import draw, print_json
from homebound.errors import HomeboundError, UsageError


@click.command()
@click.argument("update", required=False, type=click.Path(path_type=Path))
@config_option
@click.option("--dry-run", is_flag=True, help="Show what would leave for UPDATE; nothing is sent or spent.")
@click.option(
    "--task", type=click.Path(path_type=Path), metavar="FILE",
    help="The model before the round. Without it UPDATE is the change itself.",
)  # fmt: skip
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME=NUMBER",
    help="A metric that the app would add; may be repeated.",
)  # fmt: skip
@json_option
def release(
    update: Path | None,
    config: Path | None,
    dry_run: bool,
    task: Path | None,
    metrics: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show the last release, or what would leave.

    UPDATE and FILE are .safetensors or .npz files with the model's arrays."""
    from homebound import view

    if update is None and not dry_run:
        document = _last(config)
        if as_json:
            print_json({"schema": SCHEMA, **document})
        else:
            draw(view.released(document))
        return
    if update is None or not dry_run:
        raise UsageError("nothing is ever sent from here", "homebound release --dry-run UPDATE")
    document = _preview(config, update, task, dict(_metric(text) for text in metrics))
    if as_json:
        print_json({"schema": SCHEMA, **document})
    else:
        draw(view.preview(document))
    if document["refused"]:
        raise HomeboundError(
            f"nothing would leave: {document['refused']}", "docs/privacy.md says what is checked"
        )


def _last(config: Path | None) -> dict[str, Any]:
    """The newest release as the ledger has it, with its details."""
    from homebound.books.ledger import FILE, open_reader
    from homebound.config.reading import read

    values = read(config, host=False).values
    with closing(open_reader(Path(values["paths.state"], values["name"], "guard", FILE))) as reader:
        last = None
        for entry in reader.entries():
            last = entry if entry.kind == "release" else last
    if last is None:
        raise HomeboundError("nothing was released yet", "`homebound ledger show` lists what was refused")
    return {**dataclasses.asdict(last), "details": json.loads(last.details)}


def _preview(
    config: Path | None, update: Path, task: Path | None, metrics: dict[str, float]
) -> dict[str, Any]:
    from homebound.config.reading import load

    settings = load(config)
    wanted = {
        "guard": dataclasses.asdict(settings.guard),
        "timeout": settings.trainer.round_timeout_seconds,
        "update": str(update),
        "task": str(task or ""),
        "metrics": metrics,
    }
    words = [sys.executable, "-s", "-P", "-m", "homebound.guard.preview"]
    done = subprocess.run(words, input=json.dumps(wanted), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        what = done.stderr.strip().splitlines() or ["the guard gave no answer"]
        raise HomeboundError(what[-1], "name files of arrays, as safetensors or numpy save them")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _metric(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        value = json.loads(number)
    except ValueError:
        value = None
    if not name or isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{text} is no metric", "NAME=NUMBER, as in --metric loss=0.25")
    return name, value
