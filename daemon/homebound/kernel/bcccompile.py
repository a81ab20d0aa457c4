# SPDX-License-Identifier: Apache-2.0
"""bcc as a compiler: C text in the dialect of bpf/include/dialect.bpf.h -> instructions.

The only file that imports bcc, and only in a child (kernel/bccload.py): its compiler takes a hundred
megabytes. bcc makes no map and loads nothing here. What it prints goes to the error. May import: errors,
kernel.bytecode, kernel.headers, kernel.sources. Source: bcc/__init__.py (BPF, dump_func).
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from homebound.errors import HomeboundError
from homebound.kernel import headers
from homebound.kernel.bytecode import SHAPE_PREFIX, Code, Object, read_shape
from homebound.kernel.sources import LICENSE, PROGRAM

# What a file names for itself: functions and macros.
STATIC = re.compile(r"^static [^=;(]*?(\w+)\(", re.MULTILINE)
MACRO = re.compile(r"^#define (\w+)", re.MULTILINE)
# Names that libbpf's macros know, as bpf/Makefile gives them.
ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}


class BccError(HomeboundError):
    """bcc or what it needs is missing."""


class DoesNotCompile(BccError):
    """bcc works, but does not take this text."""


@dataclass(frozen=True)
class Text:
    """A file as bcc is given it."""

    path: Path
    text: str
    license: str


def compile_file(path: Path, include: Path) -> Object:
    """Compile one file. Raises BccError with the compiler's first complaint."""
    return _object(path.name.removesuffix(".c").removesuffix(".bpf"), [read(path)], include)


def compile_together(paths: Sequence[Path], include: Path) -> Object:
    """Compile several files as one text, which spares bcc's own headers for all but one of them.

    Raises BccError as well where they do not go together; each alone may still compile.
    """
    return _object("all", [apart(read(path)) for path in paths], include)


def read(path: Path) -> Text:
    """Raises BccError for a file that is not there or names no licence."""
    try:
        text = path.read_text()
    except FileNotFoundError as error:
        raise BccError(f"there is no {path}", "install the package again, or run: make bpf") from error
    license_found = LICENSE.search(text)
    if license_found is None:
        raise DoesNotCompile(f"{path.name} names no licence", 'add: char _license[] SEC("license") = "GPL";')
    # bcc makes the section of the licence itself.
    return Text(path, f'#line 1 "{path.name}"\n{LICENSE.sub("", text)}\n', license_found[1])


def apart(text: Text) -> Text:
    """The same, but so that what the file names for itself means nothing in the next one."""
    own = text.path.name.partition(".")[0]
    inner = sorted(set(STATIC.findall(text.text)))
    before = "".join(f"#define {name} {own}_{name}\n" for name in inner)
    names = inner + sorted(set(MACRO.findall(text.text)))
    return replace(text, text=before + text.text + "".join(f"#undef {name}\n" for name in names))


def _object(name: str, texts: Sequence[Text], include: Path) -> Object:
    joined = "".join(text.text for text in texts)
    # bcc changes its working folder while it compiles.
    folders = (texts[0].path.parent.resolve(), include.resolve())
    flags = ["-w", "-DHB_BCC", *(f"-I{folder}" for folder in folders)]
    flags.append(f"-D__TARGET_ARCH_{ARCHITECTURES.get(os.uname().machine, os.uname().machine)}")
    module = _compile(name, joined, flags)
    functions = {found: module.dump_func(found.encode()) for found in _functions(module)}
    shapes = (
        read_shape(found.removeprefix(SHAPE_PREFIX), code)
        for found, code in functions.items()
        if found.startswith(SHAPE_PREFIX)
    )
    programs = tuple(
        Code(found, section, functions[found])
        for section, found in PROGRAM.findall(joined)
        if found in functions
    )
    return Object(name, texts[0].license, tuple(sorted(shapes, key=lambda shape: shape.number)), programs)


def _compile(name: str, text: str, flags: list[str]) -> Any:
    with headers.tree() as tree, _printed() as printed:
        # Read by bcc's library when it compiles.
        os.environ["BCC_KERNEL_SOURCE"] = str(tree)
        try:
            from bcc import BPF

            return BPF(text=text, cflags=flags)
        except ImportError as error:
            raise BccError("bcc for Python is not there", "install the package python3-bpfcc") from error
        except Exception as error:
            reason = _first_complaint(printed) or str(error)
            raise DoesNotCompile(f"bcc does not compile {name}: {reason}", "correct it there") from error


def _functions(module: Any) -> Iterator[str]:
    from bcc.libbcc import lib

    for index in range(lib.bpf_num_functions(module.module)):
        yield lib.bpf_function_name(module.module, index).decode()


@contextmanager
def _printed() -> Iterator[IO[bytes]]:
    """Keep what the library writes to the standard streams, which it does past Python's."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile() as file:
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield file
        finally:
            for number, saved in zip((1, 2), kept, strict=True):
                os.dup2(saved, number)
                os.close(saved)


def _first_complaint(printed: IO[bytes]) -> str:
    with suppress(OSError):
        printed.seek(0)
        lines = printed.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in lines if "error:" in line), next(iter(lines), "").strip())
    return ""
