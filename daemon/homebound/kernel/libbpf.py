# SPDX-License-Identifier: Apache-2.0
"""The system's libbpf.so.1 through ctypes: the only file that knows its calls.

Loads prebuilt objects, attaches what is in them and pins all of it, then lets go: what stays are pins, which
kernel/probes.py reads by itself. Needs root. May import: errors, events.
Source: bpf/libbpf.h of libbpf 1.0 and newer (pointers are NULL and numbers negative on error).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from homebound.errors import HomeboundError

LIBRARY = "libbpf.so.1"
WARN = 0  # enum libbpf_print_level
LINE_BYTES = 4096
SETTINGS_MAP = ".rodata.settings"
# How messages begin of what another compilation might mend.
NOT_TAKEN, NOT_READ = "the kernel does not take", "cannot read the BPF object"

_Pointer = ctypes.c_void_p
_Text = ctypes.c_char_p
_Int = ctypes.c_int
_PrintFunction = ctypes.CFUNCTYPE(_Int, _Int, _Text, _Pointer)

# By name: what it returns, what it takes.
SIGNATURES: Mapping[str, tuple[type, tuple[type, ...]]] = {
    "libbpf_set_print": (_Pointer, (_PrintFunction,)),
    "bpf_object__open_file": (_Pointer, (_Text, _Pointer)),
    "bpf_object__load": (_Int, (_Pointer,)),
    "bpf_object__close": (_Int, (_Pointer,)),
    "bpf_object__next_map": (_Pointer, (_Pointer, _Pointer)),
    "bpf_object__next_program": (_Pointer, (_Pointer, _Pointer)),
    "bpf_map__name": (_Text, (_Pointer,)),
    "bpf_map__fd": (_Int, (_Pointer,)),
    "bpf_map__reuse_fd": (_Int, (_Pointer, _Int)),
    "bpf_map__set_initial_value": (_Int, (_Pointer, _Text, ctypes.c_size_t)),
    "bpf_map__pin": (_Int, (_Pointer, _Text)),
    "bpf_program__name": (_Text, (_Pointer,)),
    "bpf_program__section_name": (_Text, (_Pointer,)),
    "bpf_program__pin": (_Int, (_Pointer, _Text)),
    "bpf_program__set_autoload": (_Int, (_Pointer, ctypes.c_bool)),
    "bpf_program__attach": (_Pointer, (_Pointer,)),
    "bpf_program__attach_cgroup": (_Pointer, (_Pointer, _Int)),
    "bpf_link__pin": (_Int, (_Pointer, _Text)),
    "bpf_link__destroy": (_Int, (_Pointer,)),
}


class LibbpfError(HomeboundError):
    """libbpf is missing, or the kernel refused what it was asked for. ``code`` is an errno."""

    def __init__(self, message: str, hint: str, code: int = 0) -> None:
        super().__init__(message, hint)
        self.code = code


class NotTaken(LibbpfError):
    """The kernel refused a program or a map of an object: a fact about this kernel."""


@dataclass
class Library:
    """libbpf, opened. Its warnings are kept instead of printed: the first is the reason of an error."""

    calls: ctypes.CDLL
    warnings: deque[str] = field(default_factory=lambda: deque(maxlen=40))

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Library]:
        """Raises LibbpfError when the library is not installed."""
        try:
            calls = ctypes.CDLL(LIBRARY, use_errno=True)
        except OSError as error:
            raise LibbpfError(f"{LIBRARY} cannot be loaded", "apt install libbpf1", errno.ENOENT) from error
        for name, (result, arguments) in SIGNATURES.items():
            call = getattr(calls, name)
            call.restype, call.argtypes = result, arguments
        library = cls(calls)
        # libbpf keeps one print function for the process: held here as long as it may be called.
        function = _PrintFunction(library._keep_warning)
        previous = calls.libbpf_set_print(function)
        try:
            yield library
        finally:
            calls.libbpf_set_print(ctypes.cast(previous, _PrintFunction))

    def _keep_warning(self, level: int, template: bytes, arguments: int) -> int:
        # va_list arrives as a pointer on x86_64 (it is an array) and on arm64 (a struct above 16 bytes).
        if level == WARN:
            line = ctypes.create_string_buffer(LINE_BYTES)
            ctypes.CDLL(None).vsnprintf(
                line, ctypes.c_size_t(LINE_BYTES), template, ctypes.c_void_p(arguments)
            )
            self.warnings.extend(line.value.decode(errors="replace").splitlines())
        return 0

    @contextmanager
    def open_object(self, path: Path) -> Iterator[Object]:
        """Open an object file for loading; closed at the end, which leaves only what is pinned."""
        handle = self.calls.bpf_object__open_file(os.fsencode(path), None)
        if not handle:
            raise self.failure(f"{NOT_READ} {path}", "build it: make bpf")
        try:
            yield Object(self, handle, path.name)
        finally:
            self.calls.bpf_object__close(handle)

    def check(self, result: int, message: str) -> None:
        """Raise LibbpfError when ``result`` is a negative errno."""
        if result < 0:
            raise self.failure(message, code=-result)

    def failure(self, message: str, hint: str = "", code: int = 0) -> LibbpfError:
        """The error for errno (or ``code``), with libbpf's first warning as hint when there is no better."""
        code = code or ctypes.get_errno()
        detail = next((line for line in self.warnings if line.startswith("libbpf:")), "")
        self.warnings.clear()
        return LibbpfError(f"{message}: {os.strerror(code)}", hint or detail, code)


@dataclass(frozen=True)
class Object:
    """One BPF object file, opened."""

    library: Library
    handle: int
    name: str

    def maps(self) -> dict[str, int]:
        """Handles by name."""
        return self._walk("bpf_object__next_map", "bpf_map__name")

    def programs(self) -> dict[str, int]:
        """Handles by name."""
        return self._walk("bpf_object__next_program", "bpf_program__name")

    def keep_only(self, names: Collection[str]) -> None:
        """Leave the other programs of the object out; before load."""
        for name, handle in self.programs().items():
            result = self.library.calls.bpf_program__set_autoload(handle, name in names)
            self.library.check(result, f"cannot choose among the programs of {self.name}")

    def is_for_cgroup(self, name: str) -> bool:
        """Whether a program hangs on a cgroup; the others hang on a tracepoint of the whole host."""
        section: bytes = self.library.calls.bpf_program__section_name(self.programs()[name])
        return section.startswith(b"cgroup")

    def is_for_link(self, name: str) -> bool:
        """Whether a program hangs on network links, which libbpf does not attach it to."""
        section: bytes = self.library.calls.bpf_program__section_name(self.programs()[name])
        return section == b"tc"

    def set_settings(self, value: bytes) -> None:
        """Write the read-only data; before load."""
        handle = self._map(SETTINGS_MAP)
        result = self.library.calls.bpf_map__set_initial_value(handle, value, len(value))
        self.library.check(result, f"cannot write the settings of {self.name}")

    def reuse(self, name: str, fd: int) -> None:
        """Use a map that is there already instead of making one; before load. The descriptor is copied."""
        result = self.library.calls.bpf_map__reuse_fd(self._map(name), fd)
        self.library.check(result, f"cannot share the map {name} with {self.name}")

    def load(self) -> None:
        """Make the maps and have the kernel verify the programs. Raises NotTaken."""
        self.library.warnings.clear()
        result = self.library.calls.bpf_object__load(self.handle)
        try:
            self.library.check(result, f"{NOT_TAKEN} {self.name}")
        except LibbpfError as error:
            raise NotTaken(error.message, error.hint, error.code) from error

    def pin_map(self, name: str, path: Path) -> None:
        """After load."""
        result = self.library.calls.bpf_map__pin(self._map(name), os.fsencode(path))
        self._check_pin(result, path)

    def pin_program(self, name: str, path: Path) -> None:
        """After load, for a program that is attached by others."""
        self._check_pin(self.library.calls.bpf_program__pin(self.programs()[name], os.fsencode(path)), path)

    def attach(self, name: str, cgroup: int | None, program_pin: Path, link_pin: Path) -> None:
        """Attach a program, to the cgroup of that descriptor or to the tracepoint it names, and pin both the
        program and the link. Raises LibbpfError and leaves nothing when any of it fails."""
        calls, program = self.library.calls, self.programs()[name]
        self._check_pin(calls.bpf_program__pin(program, os.fsencode(program_pin)), program_pin)
        with _undo_on_error(program_pin.unlink):
            link = (
                calls.bpf_program__attach(program)
                if cgroup is None
                else calls.bpf_program__attach_cgroup(program, cgroup)
            )
            if not link:
                raise self.library.failure(f"cannot attach {name}")
            try:
                self._check_pin(calls.bpf_link__pin(link, os.fsencode(link_pin)), link_pin)
            finally:
                calls.bpf_link__destroy(link)  # closes it; a pinned link lives on

    def _check_pin(self, result: int, path: Path) -> None:
        if result < 0:
            hint = "mount the BPF file system there: mount -t bpf bpf /sys/fs/bpf"
            raise self.library.failure(f"cannot pin {path}", hint, -result)

    def _map(self, name: str) -> int:
        try:
            return self.maps()[name]
        except KeyError:
            raise LibbpfError(f"{self.name} has no map {name}", "build it anew: make bpf", 0) from None

    def _walk(self, step: str, name: str) -> dict[str, int]:
        calls, found = self.library.calls, {}
        handle = getattr(calls, step)(self.handle, None)
        while handle:
            found[getattr(calls, name)(handle).decode()] = handle
            handle = getattr(calls, step)(self.handle, handle)
        return found


@contextmanager
def _undo_on_error(undo: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            undo()
        raise
