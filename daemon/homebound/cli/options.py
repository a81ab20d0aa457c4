# SPDX-License-Identifier: Apache-2.0
"""Options that several verbs of the command line have, and the number of the form of their JSON.

May import: click.
"""

from __future__ import annotations

from pathlib import Path

import click

SCHEMA = 1

config_option = click.option(
    "-c", "--config", type=click.Path(path_type=Path), metavar="FILE",
    help="Read FILE in place of /etc/homebound/homebound.toml.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
