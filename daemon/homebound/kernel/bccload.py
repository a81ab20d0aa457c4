# SPDX-License-Identifier: Apache-2.0
"""The child that loads with bcc: compile, make maps, verify, attach, pin, and end, compiler and all.

Started by kernel/bccchild.py as `python -m homebound.kernel.bccload`; one order in as JSON on its standard
input, one answer out. What it leaves is what libbpf's way leaves: pins below maps/, programs/ and links/.
Needs root. May import: errors, kernel.bcccompile, kernel.bpf, kernel.bpfmake, kernel.bytecode, kernel.hooks,
kernel.sources. Source: bpf(2).
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from homebound.errors import HomeboundError
from homebound.kernel import bcccompile, bpf, bpfmake, bytecode, hooks
from homebound.kernel.bcccompile import DoesNotCompile
from homebound.kernel.bytecode import SETTINGS_NUMBER, Code, Object
from homebound.kernel.sources import NEEDS_TYPES, SUFFIX, TYPES_WANTED, names

INCLUDE = "include"


@dataclass(frozen=True)
class Order:
    """What is to be loaded and where it goes. ``contents``: of shared maps, key and value in hexadecimal,
    written before any program runs. ``compiled``: a file that keeps instructions between loads, or "".
    ``off``: programs to leave out."""

    sources: str
    objects: tuple[str, ...]
    shared: tuple[str, ...]
    contents: Mapping[str, list[tuple[str, str]]]
    settings: str
    cgroup: int
    pins: str
    compiled: str = ""
    off: tuple[str, ...] = ()


def main() -> int:
    """Read the order, do it, answer with the reason of each program that is not attached."""
    document = json.loads(sys.stdin.read())
    lift_memory_limit()
    try:
        order = Order(**document)
        answer: dict[str, object] = {"reasons": load(order)}
    except HomeboundError as error:
        answer = {"error": error.message, "hint": error.hint}
    except OSError as error:
        answer = {"error": str(error), "hint": "", "errno": error.errno}
    sys.stdout.write(json.dumps(answer))
    return 0


def lift_memory_limit() -> None:
    """Kernels before 5.11 count maps as locked memory. May fail where it is not needed."""
    limit = resource.RLIM_INFINITY
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
    except (ValueError, OSError):
        return


def load(order: Order) -> dict[str, str]:
    """Compile, load, attach and pin. A file or program that fails has its reason and takes no other along."""
    objects, reasons = _compiled(order)
    pins = Path(order.pins)
    for wanted in objects:
        with ExitStack() as held:
            fds = _make_maps(wanted, order, pins, held)
            fds[SETTINGS_NUMBER] = bpfmake.create_constants("hb_settings", bytes.fromhex(order.settings))
            held.callback(os.close, fds[SETTINGS_NUMBER])
            for code in wanted.programs:
                if code.name in order.off:
                    continue
                reason = place(code, wanted.license, fds, order.cgroup, pins)
                if reason:
                    reasons[code.name] = reason
    return reasons


def place(code: Code, terms: str, fds: Mapping[int, int], cgroup: int, pins: Path) -> str:
    """Verify, attach and pin one program. Returns why not and leaves nothing then; "" when it is in place."""
    program_pin, link_pin = pins / "programs" / code.name, pins / "links" / code.name
    with ExitStack() as held:
        try:
            hook = hooks.read(code.section)
            fd = bpfmake.load_program(code.name, hooks.kind(hook), bytecode.link(code, fds), terms)
            held.callback(os.close, fd)
            bpfmake.pin(fd, program_pin)
            _attach(hook, fd, cgroup, link_pin, held)
        except (OSError, LookupError) as error:
            program_pin.unlink(missing_ok=True)
            said = error.strerror if isinstance(error, OSError) else str(error)
            return f"{code.section}: {said}"
    return ""


def _attach(hook: hooks.Hook, program: int, cgroup: int, link_pin: Path, held: ExitStack) -> None:
    link = hooks.attach(hook, program, cgroup)
    if link is not None:
        held.callback(os.close, link)
        bpfmake.pin(link, link_pin)


def _compiled(order: Order) -> tuple[tuple[Object, ...], dict[str, str]]:
    """The objects, compiled or kept from an earlier load, and why programs of the others are not there."""
    kept = Path(order.compiled) if order.compiled else None
    sources = Path(order.sources)
    paths, left_out = _without_types([sources / f"{name}{SUFFIX}" for name in order.objects])
    left_out = {name: reason for name, reason in left_out.items() if name not in order.off}
    if kept and kept.exists():
        return bytecode.from_json(kept.read_text()), left_out
    objects, reasons = compile_all(paths, sources / INCLUDE)
    if kept and not reasons:
        kept.write_text(bytecode.to_json(objects))
    return objects, reasons | left_out


def _without_types(paths: Sequence[Path]) -> tuple[list[Path], dict[str, str]]:
    """The files that bcc can compile right, and the reason of each program of the others."""
    fit: list[Path] = []
    reasons: dict[str, str] = {}
    for path in paths:
        text = path.read_text() if path.exists() else ""
        if NEEDS_TYPES.search(text):
            reasons |= dict.fromkeys(names(text), TYPES_WANTED)
        else:
            fit.append(path)
    return fit, reasons


def compile_all(paths: Sequence[Path], include: Path) -> tuple[tuple[Object, ...], dict[str, str]]:
    """All files at once if they compile so, else one by one. Raises BccError where bcc cannot work at all."""
    try:
        return (bcccompile.compile_together(paths, include),), {}
    except DoesNotCompile:
        objects: list[Object] = []
        reasons: dict[str, str] = {}
    for path in paths:
        try:
            objects.append(bcccompile.compile_file(path, include))
        except DoesNotCompile as error:
            reasons |= dict.fromkeys(names(path.read_text()), error.message)
    return tuple(objects), reasons


def _make_maps(wanted: Object, order: Order, pins: Path, held: ExitStack) -> dict[int, int]:
    """A descriptor for each number: of the map that is pinned by that name, or of a new one."""
    fds = {}
    for shape in wanted.maps:
        path = pins / "maps" / shape.name
        if shape.name in order.shared and path.exists():
            fds[shape.number] = bpf.open_pin(path)
            held.callback(os.close, fds[shape.number])
            continue
        fds[shape.number] = bpfmake.create_map(shape)
        held.callback(os.close, fds[shape.number])
        if shape.name in order.shared:
            _fill(fds[shape.number], order.contents.get(shape.name, ()))
            bpfmake.pin(fds[shape.number], path)
    return fds


def _fill(fd: int, contents: Iterable[tuple[str, str]]) -> None:
    for key, value in contents:
        bpf.update(fd, bytes.fromhex(key), bytes.fromhex(value))


if __name__ == "__main__":
    sys.exit(main())
