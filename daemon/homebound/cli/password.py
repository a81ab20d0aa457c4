# SPDX-License-Identifier: Apache-2.0
"""`homebound password-line`: what to keep of a password for the metrics port. The password is shown nowhere.

May import: click, errors, passwords.
"""

from __future__ import annotations

import sys

import click

from homebound import passwords
from homebound.errors import UsageError


@click.command("password-line")
@click.argument("name")
def password_line(name: str) -> None:
    """Print a line for the file that metrics.passwords names.

    The password is asked for, or is the first line of standard input."""
    if sys.stdin.isatty():
        password = str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    else:
        password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise UsageError("no password", f"homebound password-line {name} <FILE")
    click.echo(passwords.line(name, password))
