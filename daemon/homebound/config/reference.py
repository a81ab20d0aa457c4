# SPDX-License-Identifier: Apache-2.0
"""The settings in words: what each one wants, how a value looks in TOML, and the commented reference file.

All of it is derived from the declarations in settings.py, so that a message, the reference file and the
check cannot differ. Pure: reads no file. May import: settings.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
import textwrap
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Predicate

from homebound.settings import Settings, sections
from homebound.valuekinds import PREDICATE_FORMS

WIDTH = 100
INTRODUCTION = """\
# SPDX-License-Identifier: Apache-2.0
# Settings of homebound: the reference. Each setting shows its default; lines to change lose the "#".
# Read in this order, later wins: this file in /usr/lib/homebound, /etc/homebound/homebound.toml, then
# conf.d/*.toml of both folders by file name. Tables merge key by key, lists are replaced. A file in
# /etc/homebound/conf.d hides the one of the same name in /usr/lib/homebound/conf.d; a link to /dev/null
# hides it and puts nothing in its place. Unknown keys are errors. Secrets stay outside: settings name files.
# `homebound check-config` reads it all and says what is wrong.
"""


@dataclass(frozen=True)
class Declaration:
    """One setting: ``section`` is empty for those above the first table."""

    section: str
    name: str
    annotation: Any
    default: Any
    required: bool
    help: str
    unit: str
    example: Any

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}" if self.section else self.name


def declarations() -> Iterator[Declaration]:
    """Every setting, in the order of the file."""
    tables = sections()
    yield from _of("", Settings, skip=frozenset(tables))
    for name, section in tables.items():
        yield from _of(name, section)


def _of(section: str, declared: type[Any], skip: frozenset[str] = frozenset()) -> Iterator[Declaration]:
    hints = get_type_hints(declared, include_extras=True)
    for entry in dataclasses.fields(declared):
        if entry.name in skip:
            continue
        required = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        default = entry.default
        if entry.default_factory is not dataclasses.MISSING:
            default = entry.default_factory()
        yield Declaration(
            section=section,
            name=entry.name,
            annotation=hints[entry.name],
            default=None if required else default,
            required=required,
            help=entry.metadata["help"],
            unit=entry.metadata["unit"],
            example=entry.metadata["example"],
        )


def form(annotation: Any) -> str:
    """What a value of this type must look like, in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bounded(arguments[0], arguments[1:])
    if origin is Literal:
        return _either([json.dumps(choice) for choice in arguments])
    if origin in (Union, types.UnionType):
        # Every whole number is a number; naming both would only confuse.
        return _either([form(choice) for choice in arguments if choice is not int or float not in arguments])
    if origin is tuple:
        return f"a list of {form(arguments[0])}" if arguments[0] is not str else "a list of strings"
    if origin is not None and issubclass(origin, Mapping):
        return f"a table whose values are each {form(arguments[1])}"
    if dataclasses.is_dataclass(annotation):
        return "a table"
    return {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}[annotation]


def _bounded(base: Any, constraints: tuple[Any, ...]) -> str:
    low = high = ""
    for constraint in constraints:
        match constraint:
            case Predicate(func=check):
                return PREDICATE_FORMS[check.__name__]
            case Ge(ge=bound):
                low = f"from {bound}"
            case Gt(gt=bound):
                low = f"above {bound}"
            case Le(le=bound):
                high = f"to {bound}" if low.startswith("from") else f"and at most {bound}"
    if low.startswith("from") and not high:
        low += " up"
    return " ".join(word for word in (form(base), low, high) if word)


def _either(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else ", ".join(choices[:-1]) + " or " + choices[-1]


def toml(value: Any) -> str:
    """A value as it is written in TOML, on one line."""
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{toml_key(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return str(value)


def toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _quoted(key)


def _quoted(text: str) -> str:
    """JSON's escapes are TOML's too; the rest of the control characters must not reach a terminal either."""
    quoted = json.dumps(text, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\ud800-\udfff]", lambda found: f"\\u{ord(found.group()):04x}", quoted)


def reference() -> str:
    """The commented reference file. Taking the "#" off its setting lines gives the defaults."""
    parts = [INTRODUCTION]
    tables = sections()
    section = ""
    for entry in declarations():
        if entry.section != section:
            section = entry.section
            parts.append(f"\n{_comment(tables[section].__doc__ or '')}[{section}]\n")
        parts.append("\n" + _comment(_words(entry)) + _lines(entry))
    return "".join(parts)


def _words(entry: Declaration) -> str:
    wanted = form(entry.annotation)
    unit = f", in {entry.unit}" if entry.unit else ""
    required = " Required." if entry.required else ""
    return f"{entry.help} Wanted: {wanted}{unit}.{required}"


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, WIDTH))


def _lines(entry: Declaration) -> str:
    value = entry.example if entry.required else entry.default
    if isinstance(value, Mapping):
        # A table of its own would end the section, so its entries are dotted keys.
        return "".join(f"#{entry.name}.{toml_key(key)} = {toml(item)}\n" for key, item in value.items()) or (
            f"#{entry.name} = {{}}\n"
        )
    return f"#{entry.name} = {toml(value)}\n"
