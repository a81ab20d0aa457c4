# SPDX-License-Identifier: Apache-2.0
"""Every setting once: its type, bounds, default, help and unit, as frozen dataclasses.

config.py checks what a person wrote against these declarations; reference.py writes the commented
reference file from them. A role gets them as JSON in a memfd and reads them with from_json(), so no role
pays for the checking library. Lean: the standard library and annotated_types. May import: valuekinds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_type_hints

from annotated_types import Ge, Gt, Le

from homebound.valuekinds import (
    AbsolutePath,
    Address,
    Endpoint,
    Loader,
    Mode,
    Name,
    OptionalPath,
    Scalar,
    Sha256,
    Wall,
    about,
    endpoint,
)

# Read by pydantic when config.py checks a file; a plain dict, so that it need not be imported here.
STRICT = {"extra": "forbid", "strict": True, "allow_inf_nan": False}


@dataclass(frozen=True, kw_only=True)
class FederationSettings:
    """Which federation the gateway talks to. It can reach this address and nothing else."""

    __pydantic_config__ = STRICT
    address: Endpoint = field(
        metadata=about("Fleet address of the SuperLink.", example="superlink.example.org:8000")
    )
    insecure: bool = field(default=False, metadata=about("Speak without TLS. For loopback and tests only."))
    root_certificates: OptionalPath = field(
        default="",
        metadata=about(
            "PEM file with the certificates to trust. Empty: the service's credential "
            "homebound.root_certificates if there is one, else those of the system."
        ),
    )
    node_key: OptionalPath = field(
        default="",
        metadata=about(
            "PEM file with the EC private key that the federation knows this device by. "
            "Empty: the service's credential homebound.node_key if there is one, else a key of our own "
            "that is made and kept below paths.state."
        ),
    )
    poll_seconds: Annotated[float, Ge(0.01), Le(3600)] = field(
        default=1.0, metadata=about("Time between two questions for a task.", "seconds")
    )
    retry_max_seconds: Annotated[float, Ge(0.1), Le(86400)] = field(
        default=60.0, metadata=about("Longest wait before a lost federation is tried again.", "seconds")
    )

    @property
    def host(self) -> str:
        return endpoint(self.address)[0]

    @property
    def port(self) -> int:
        return endpoint(self.address)[1]


@dataclass(frozen=True, kw_only=True)
class AppSettings:
    """The one app that may see the data. `homebound app-hash PATH` prints both hashes."""

    __pydantic_config__ = STRICT
    path: AbsolutePath = field(
        metadata=about("Folder of the Flower app.", example="/usr/local/lib/homebound/app")
    )
    fab_sha256: Sha256 = field(
        metadata=about(
            "How the federation names the app; a task for another one is refused.", example="0" * 64
        )
    )
    tree_sha256: Sha256 = field(
        metadata=about("What lies in app.path; the app does not start when it differs.", example="0" * 64)
    )
    node_config: Mapping[str, Scalar] = field(
        default_factory=dict, metadata=about("What the app finds in context.node_config.")
    )


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The raw data. Only the trainer can read it, and nobody can write it."""

    __pydantic_config__ = STRICT
    path: AbsolutePath = field(metadata=about("Folder with the training data.", example="/srv/data"))


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """The process that runs the app on the data, without any network."""

    __pydantic_config__ = STRICT
    python: OptionalPath = field(
        default="", metadata=about("Interpreter of the environment with the app's libraries. Empty: our own.")
    )
    root: OptionalPath = field(
        default="", metadata=about("Root file system it runs in, as of a mounted image. Empty: this host's.")
    )
    warm: bool = field(
        default=True,
        metadata=about("Stay between rounds. false frees the memory and costs a start each round."),
    )
    round_timeout_seconds: Annotated[float, Gt(0), Le(604800)] = field(
        default=600.0, metadata=about("Longest time for one task; then the trainer is killed.", "seconds")
    )
    tasks_max: Annotated[int, Ge(16), Le(4194304)] = field(
        default=512, metadata=about("Most processes and threads of the trainer.")
    )
    memory_max_bytes: Annotated[int, Ge(0)] = field(
        default=0, metadata=about("Most memory of the trainer; 0 is no limit.", "bytes")
    )
    cpu_max_percent: Annotated[int, Ge(0), Le(1000000)] = field(
        default=0, metadata=about("Most processor time, of one processor; 0 is no limit.", "percent")
    )
    scratch_bytes: Annotated[int, Ge(1048576)] = field(
        default=268435456, metadata=about("Size of the trainer's /tmp, which lies in memory.", "bytes")
    )
    groups: tuple[str, ...] = field(
        default=(), metadata=about("Groups that the trainer joins so that it can read the data.")
    )
    preload: tuple[str, ...] = field(
        default=("torch",), metadata=about("Modules that a warm trainer imports before its first task.")
    )
    log_bytes: Annotated[int, Ge(0), Le(1073741824)] = field(
        default=1048576, metadata=about("How much of the app's own output is kept.", "bytes")
    )


@dataclass(frozen=True, kw_only=True)
class GuardSettings:
    """What is done to an update before it may leave."""

    __pydantic_config__ = STRICT
    clip_norm: Annotated[float, Gt(0)] = field(
        default=1.0, metadata=about("Largest L2 norm of a released change.")
    )
    noise_multiplier: Annotated[float, Ge(0)] = field(
        default=0.1,
        metadata=about(
            "Standard deviation of the added Gaussian noise is this times clip_norm. 0 adds none."
        ),
    )
    quantum_bits: Annotated[int, Ge(2), Le(32)] = field(
        default=8,
        metadata=about(
            "Values are rounded to a step this many bits below the noise, or below clip_norm.", "bits"
        ),
    )
    epsilon_limit: Annotated[float, Ge(0)] = field(
        default=10000.0,
        metadata=about(
            "Most privacy loss (epsilon) of all releases of this device together; training stops before it "
            "is passed. 0 is no limit. Above 10 it says little about privacy and only bounds how much leaves."
        ),
    )
    run_epsilon_limit: Annotated[float, Ge(0)] = field(
        default=5000.0, metadata=about("The same for the releases of one federation run.")
    )
    delta: Annotated[float, Gt(0), Le(0.5)] = field(
        default=1e-5,
        metadata=about("The delta at which epsilon is told; below one over the number of devices."),
    )
    min_examples: Annotated[int, Ge(0), Le(65536)] = field(
        default=64,
        metadata=about(
            "Fewest examples that a released update may stand for, by the app's num-examples and, where it "
            "uses PyTorch's loader, by that. A hostile app can lie about both. 0 asks for none."
        ),
    )
    secagg_required: bool = field(
        default=False,
        metadata=about(
            "Release nothing but masked updates: a federation that does not add up securely gets none."
        ),
    )
    secagg_min_devices: Annotated[int, Ge(3), Le(256)] = field(
        default=3, metadata=about("Fewest devices that a secure sum may be of, this one included.")
    )
    secagg_peers: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Ledger keys of the devices to add up with (`homebound ledger verify` prints a device's own). "
            "Empty: whomever the federation names."
        ),
    )
    max_update_bytes: Annotated[int, Ge(1024), Le(2**40)] = field(
        default=536870912, metadata=about("Largest update that is looked at.", "bytes")
    )
    metrics: Mapping[str, Annotated[int, Ge(0), Le(9)]] = field(
        default_factory=lambda: {"num-examples": 0, "loss": 2, "accuracy": 2},
        metadata=about(
            "Metrics that may leave, each with the digits kept after the point. A table of your own "
            "takes the place of this one. num-examples is put into buckets, whatever its digits."
        ),
    )
    metric_bits: Annotated[float, Ge(0), Le(1024)] = field(
        default=64.0,
        metadata=about(
            "Most that the metrics of one answer can say together; `homebound release` has the figures. "
            "The default metrics take 35.",
            "bits",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class MetricsSettings:
    """Where Prometheus finds the metrics, and a person the daemon's page."""

    __pydantic_config__ = STRICT
    address: Address = field(
        default="127.0.0.1",
        metadata=about(
            "Address to listen on. One that is not loopback asks for certificate and passwords; "
            "0.0.0.0 and :: are all addresses of this host."
        ),
    )
    port: Annotated[int, Ge(1), Le(65535)] = field(default=10977, metadata=about("Port to listen on."))
    certificate: OptionalPath = field(
        default="",
        metadata=about(
            "PEM file with the certificate for TLS, followed by those between it and its authority. Empty: "
            "no TLS. It is read when the daemon starts."
        ),
    )
    key: OptionalPath = field(
        default="",
        metadata=about(
            "PEM file with the private key of the certificate. Empty: the certificate's file has it."
        ),
    )
    passwords: OptionalPath = field(
        default="",
        metadata=about(
            "File with those who may ask, a line each, as `homebound password-line NAME` prints it. Empty: "
            "everybody who reaches the port."
        ),
    )
    allow_plain: bool = field(
        default=False,
        metadata=about(
            "Listen on an address that is not loopback though certificate or passwords are missing."
        ),
    )


@dataclass(frozen=True, kw_only=True)
class UsersSettings:
    """Whom the roles run as."""

    __pydantic_config__ = STRICT
    base: Annotated[int, Ge(0), Le(4294967000)] = field(
        default=60600,
        metadata=about(
            "First of 8 user and group numbers for roles whose user (homebound-watcher and so on) does "
            "not exist. 0: those users must exist."
        ),
    )


@dataclass(frozen=True, kw_only=True)
class PathsSettings:
    """Where the daemon keeps its own things; each device has a folder with its name below."""

    __pydantic_config__ = STRICT
    state: AbsolutePath = field(
        default="/var/lib/homebound", metadata=about("What must outlive a restart: ledger, outbox, key.")
    )
    run: AbsolutePath = field(default="/run/homebound", metadata=about("What ends with the daemon: sockets."))
    probes: AbsolutePath = field(
        default="/etc/homebound/probes.d",
        metadata=about("BPF programs of the site's own, which only look on; docs/probes.md."),
    )


@dataclass(frozen=True, kw_only=True)
class CanarySettings:
    """The trial that walls hold: a process with the trainer's walls that tries to get out."""

    __pydantic_config__ = STRICT
    interval_seconds: Annotated[float, Ge(1), Le(86400)] = field(
        default=300.0, metadata=about("Time between two trials.", "seconds")
    )


@dataclass(frozen=True, kw_only=True)
class KernelSettings:
    """What the kernel programs look at besides what the walls need."""

    __pydantic_config__ = STRICT
    uplink_meter: bool = field(
        default=True,
        metadata=about(
            "Count what leaves through the host's network links, too (a filter on the egress of each), so "
            "that packet sockets are seen. Roles without a network send nothing there."
        ),
    )
    count_opens: bool = field(
        default=False,
        metadata=about(
            "Count the files that the trainer opens, by what they are to it: data, app, state, system or "
            "other, never by name. Slows each call of the host."
        ),
    )
    time_calls: bool = field(
        default=False,
        metadata=about(
            "Measure how long the trainer's system calls take. Slows each call of the host, twice as much as "
            "the other settings here."
        ),
    )
    security_hooks: bool = field(
        default=False,
        metadata=about(
            "Refuse at the kernel's security hooks (BPF LSM), too, where it has them. Off until you have "
            "seen a round behind them on your kernel; docs/kernel.md says what was tried. The wall bpf-lsm "
            "in require switches them on."
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of one device."""

    __pydantic_config__ = STRICT
    name: Name = field(
        default="default", metadata=about("Name of this device; two daemons on a host need two names.")
    )
    mode: Mode = field(
        default="enforce", metadata=about("enforce stops what must not leave; observe only counts it.")
    )
    loader: Loader = field(
        default="auto",
        metadata=about("Who loads the kernel programs; auto: libbpf, and bcc where that cannot."),
    )
    count_calls: bool = field(
        default=False,
        metadata=about("Look at the roles' calls that nothing refused, too. Slows each call of the host."),
    )
    require: tuple[Wall, ...] = field(
        default=("namespaces", "seccomp", "cgroup-bpf"),
        metadata=about("Walls without which nothing trains."),
    )
    federation: FederationSettings
    app: AppSettings
    data: DataSettings
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    guard: GuardSettings = field(default_factory=GuardSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    users: UsersSettings = field(default_factory=UsersSettings)
    paths: PathsSettings = field(default_factory=PathsSettings)
    canary: CanarySettings = field(default_factory=CanarySettings)
    kernel: KernelSettings = field(default_factory=KernelSettings)


def sections() -> dict[str, type[Any]]:
    """Table name -> dataclass, in the order of the file."""
    hints = get_type_hints(Settings)
    names = [entry.name for entry in dataclasses.fields(Settings)]
    return {name: hints[name] for name in names if dataclasses.is_dataclass(hints[name])}


def to_json(settings: Settings) -> bytes:
    """The settings as JSON, for from_json() in another process."""
    return json.dumps(dataclasses.asdict(settings)).encode()


def from_json(document: bytes | str) -> Settings:
    """Read what to_json() wrote. It was checked before, so a wrong document is a bug: TypeError, KeyError."""
    values: dict[str, Any] = json.loads(document)
    for name, section in sections().items():
        values[name] = section(**{key: _frozen(value) for key, value in values[name].items()})
    return Settings(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
