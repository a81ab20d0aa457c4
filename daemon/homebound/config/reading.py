# SPDX-License-Identifier: Apache-2.0
"""From configuration files to checked settings: all faults of all files at once, and whence each value came.

What layers.py merged is checked strictly against settings.py, then crosschecks.py looks at the host.
May import: everything about settings, errors. The only place for pydantic.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from homebound.config import crosschecks, layers
from homebound.config.layers import Merge, Places
from homebound.config.problems import Problem, to_error
from homebound.config.reference import declarations, form, toml, toml_key
from homebound.settings import Settings, sections

Place = tuple[int | str, ...]


@dataclass(frozen=True)
class Reading:
    """What was read. ``settings`` is None when a problem is in the way.

    ``values`` has every setting that is right by itself by its dotted key; ``origins`` the file of each,
    and of each entry of a table.
    """

    settings: Settings | None
    problems: tuple[Problem, ...]
    files: tuple[str, ...]
    values: Mapping[str, Any]
    origins: Mapping[str, str]


def load(file: Path | None = None, places: Places | None = None) -> Settings:
    """The settings, or a ConfigError with a line for each fault. Names no file of the data folder."""
    reading = read(file, places, names=False)
    if reading.settings is None or reading.problems:
        raise to_error(reading.problems)
    return reading.settings


def read(
    file: Path | None = None, places: Places | None = None, names: bool = True, host: bool = True
) -> Reading:
    """Read and check everything. ``file`` takes the place of /etc/homebound/homebound.toml and must exist.

    ``names`` is whether names out of the data folder may be told; ``host`` whether the files that are
    named are looked at too. Raises ConfigError when there is nothing to read, PermissionMissing when it
    may not be read.
    """
    places = places or Places()
    paths = layers.find(file, places)
    merge = layers.merge(paths, str(file or places.etc / layers.FILE_NAME))
    complete = not merge.problems  # a file that could not be read may hold what seems to be missing
    settings, wrong = _check(merge, complete)
    values = _effective(merge.values, [problem.key for problem in wrong])
    problems = [*merge.problems, *wrong]
    if host:
        problems += _look_at_host(values, settings, merge, names)
    return Reading(
        settings=settings if complete else None,
        problems=tuple(problems),
        files=tuple(str(path) for path in paths),
        values=values,
        origins={key: merge.origins.get(key, layers.DEFAULT) for key in _leaves(values)},
    )


def shown(reading: Reading) -> dict[str, dict[str, Any]]:
    """Key -> {value, origin}. A table is given entry by entry, as each may come from another file."""
    found = {}
    for key, value in reading.values.items():
        entries = {key: value}
        if isinstance(value, Mapping) and value:
            entries = {f"{key}.{toml_key(name)}": item for name, item in value.items()}
        for leaf, item in entries.items():
            found[leaf] = {"value": item, "origin": reading.origins[leaf]}
    return found


def _check(merge: Merge, complete: bool) -> tuple[Settings | None, list[Problem]]:
    """The settings, or why not. Unless ``complete``, nothing counts as missing."""
    whole: dict[str, Any] = {name: {} for name in sections()} | merge.values
    # JSON and back: only so does the strict check take a table for a dataclass and a list for a tuple.
    document = json.dumps(whole, default=lambda _: None)  # a date becomes null, which no setting takes
    try:
        return TypeAdapter(Settings).validate_json(document), []
    except ValidationError as error:
        problems: dict[str, Problem] = {}
        for detail in error.errors(include_url=False, include_context=False):
            problem = _problem(detail["type"], detail["loc"], whole, merge)
            if complete or not _is_missing(detail["type"]):
                problems.setdefault(problem.key, problem)  # a union complains once for each of its types
        return None, list(problems.values())


def _is_missing(kind: str) -> bool:
    return kind in ("missing", "missing_argument")


def _problem(kind: str, place: Place, whole: Mapping[str, Any], merge: Merge) -> Problem:
    if not place:  # the checker's own parser gave up
        return Problem(merge.main, "", "", "or one of its drop-ins is nested too deeply")
    if _is_missing(kind):
        key = ".".join(str(part) for part in place)
        return Problem(merge.place(key), key, "", f"is missing; wanted {_wanted(place)}")
    key, value = _walk(whole, place)
    file = merge.place(key.partition("[")[0])
    if kind == "unexpected_keyword_argument":
        return Problem(file, key, toml(value), f"no such key; {_nearest(place)}")
    return Problem(file, key, toml(value), f"wanted {_wanted(place)}")


def _walk(whole: Mapping[str, Any], place: Place) -> tuple[str, Any]:
    """Dotted key and value, as far as there is data: beyond it, ``place`` names a type of a union."""
    key = ""
    value: Any = whole
    for part in place:
        if isinstance(value, dict) and part in value:
            key += f".{toml_key(str(part))}"
        elif isinstance(value, list) and isinstance(part, int):
            key += f"[{part}]"
        else:
            break
        value = value[part]
    return key.removeprefix("."), value


def _wanted(place: Place) -> str:
    """What may stand at ``place``, in words."""
    known = {declaration.key: declaration for declaration in declarations()}
    if place[0] in sections():
        if len(place) == 1:
            return f"a table [{place[0]}]"
        declaration, inside = known[f"{place[0]}.{place[1]}"], place[2:]
    else:
        declaration, inside = known[str(place[0])], place[1:]
    return form(_inner(declaration.annotation) if inside else declaration.annotation)


def _inner(annotation: Any) -> Any:
    """The type of an entry of a list or table; the annotation itself when it has none."""
    if get_origin(annotation) is Annotated:
        return annotation
    arguments = get_args(annotation)
    return {tuple: arguments[:1], Mapping: arguments[1:2]}.get(get_origin(annotation), (annotation,))[0]


def _nearest(place: Place) -> str:
    """The key that was perhaps meant: of the same table, else the same name or a near one anywhere."""
    wrong = str(place[-1])
    table = str(place[0]) if len(place) > 1 else ""
    keys = [declaration.key for declaration in declarations()]
    beside = [entry.name for entry in declarations() if entry.section == table]
    if not table:
        beside += sections()
    near = difflib.get_close_matches(wrong, beside, n=1)
    if near:
        return f"the nearest is {table}.{near[0]}" if table else f"the nearest is {near[0]}"
    same = [key for key in keys if key.rpartition(".")[2] == wrong]
    near = same or difflib.get_close_matches(f"{table}.{wrong}".lstrip("."), keys, n=1)
    if near:
        return f"the nearest is {near[0]}"
    return f"known here: {', '.join(beside)}"


def _effective(values: Mapping[str, Any], wrong: Iterable[str]) -> dict[str, Any]:
    """Every setting that is right by itself, by dotted key: the files' value or the default."""
    bad = [key.replace("[", ".") + "." for key in wrong]
    found = {}
    for entry in declarations():
        if any(key.startswith(f"{entry.key}.") or key == f"{entry.section}." for key in bad):
            continue
        table = values.get(entry.section, {}) if entry.section else values
        if entry.name in table:
            value = table[entry.name]
            found[entry.key] = tuple(value) if isinstance(value, list) else value
        elif not entry.required:
            found[entry.key] = entry.default
    return found


def _leaves(values: Mapping[str, Any]) -> list[str]:
    """The keys of all values, and of the entries of those that are tables."""
    keys = []
    for key, value in values.items():
        keys.append(key)
        if isinstance(value, Mapping):
            keys += [f"{key}.{toml_key(name)}" for name in value]
    return keys


def _look_at_host(
    values: Mapping[str, Any], settings: Settings | None, merge: Merge, names: bool
) -> list[Problem]:
    faults = crosschecks.cross_check(values, names)
    if settings is not None:
        faults += crosschecks.keep_apart(settings)
    return [
        Problem(merge.place(fault.key), fault.key, toml(values[fault.key]), fault.what, fault.hint)
        for fault in faults
    ]
