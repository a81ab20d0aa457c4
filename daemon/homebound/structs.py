# SPDX-License-Identifier: Apache-2.0
"""The structs of bpf/include/homebound.h as ctypes, field for field; what they mean is in events.py.

tests/kernel/test_layout.py compares each with the header through BTF. Imports nothing of ours.
"""

from __future__ import annotations

import ctypes

_U8, _U16, _U32, _U64, _S32 = (
    ctypes.c_uint8,
    ctypes.c_uint16,
    ctypes.c_uint32,
    ctypes.c_uint64,
    ctypes.c_int32,
)


class SettingsRecord(ctypes.Structure):
    """struct hb_settings"""

    _fields_ = (
        ("role_level", _U32),
        ("enforce", _U32),
        ("allowance_rate", _U32),
        ("allowance_burst", _U32),
        ("count_calls", _U32),
        ("unused", _U32),
    )


class EndpointRecord(ctypes.Structure):
    """struct hb_endpoint"""

    _fields_ = (
        ("role", _U32),
        ("port", _U16),
        ("protocol", _U8),
        ("direction", _U8),
        ("address", _U8 * 16),
    )


class TrafficRecord(ctypes.Structure):
    """struct hb_traffic"""

    _fields_ = (("packets", _U64), ("bytes", _U64), ("stream_bytes", _U64))


class ProgramStateRecord(ctypes.Structure):
    """struct hb_program_state"""

    _fields_ = (("made", _U64), ("lost", _U64), ("failed_lookups", _U64))


class StreamRecord(ctypes.Structure):
    """struct hb_stream"""

    _fields_ = (("next_sequence", _U32),)


class EventRecord(ctypes.Structure):
    """struct hb_event"""

    _fields_ = (
        ("version", _U16),
        ("error", _U16),
        ("kind", _U16),
        ("size", _U16),
        ("role", _U32),
        ("rule", _U32),
        ("time_ns", _U64),
        ("cgroup", _U64),
        ("pid", _U32),
        ("tid", _U32),
        ("family", _U8),
        ("protocol", _U8),
        ("port", _U16),
        ("address", _U8 * 16),
        ("syscall", _S32),
        ("result", _S32),
        ("program", _U32),
        ("detail", _U64),
        ("flags", _U32),
        ("area", _U32),
    )


class CallsRecord(ctypes.Structure):
    """struct hb_calls"""

    _fields_ = (("by_class", _U64 * 8), ("compat", _U64), ("x32", _U64))


class ProcessesRecord(ctypes.Structure):
    """struct hb_processes"""

    _fields_ = (
        ("forks", _U64),
        ("threads", _U64),
        ("execs", _U64),
        ("exits", _U64),
        ("killed", _U64),
        ("oom_kills", _U64),
        ("peak_bytes", _U64),
    )
