# SPDX-License-Identifier: Apache-2.0
"""What single values cannot tell: do the named files exist, fit each other, and keep the roles apart.

Needs no kernel feature and changes nothing. Each check takes the values that were right so far and is
passed over when one that it needs was not, so that all faults show at once.
May import: apptree, config.datafolder, books.epsilon, errors, events, kernel.sandbox, passwords, rooms.roles,
rooms.rootfs, settings, rooms.users.
"""

from __future__ import annotations

import ipaddress
import math
import os
import ssl
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebound import apptree, passwords
from homebound.books.epsilon import epsilon
from homebound.config import datafolder
from homebound.errors import ConfigError
from homebound.events import Role
from homebound.kernel import sandbox
from homebound.rooms import roles, rootfs, users
from homebound.settings import Settings
from homebound.valuekinds import is_sha256

# A multiplier below it has no square.
TINY = 1e-150
SOCKET_PATH_MAX = 107  # sun_path has 108 bytes, the last one is NUL: unix(7)

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Fault:
    """What is wrong with the value of ``key``, and what to do."""

    key: str
    what: str
    hint: str = ""


def cross_check(values: Values, names: bool) -> list[Fault]:
    """All faults. ``values`` maps ``section.key`` to a value for every setting that is right by itself.

    ``names`` says whether file names out of the data folder may be told: to a person yes, to a log no.
    """
    faults: list[Fault] = []
    for needed, check in CHECKS.items():
        if all(key in values for key in needed):
            faults += check(values)
    if "data.path" in values:
        faults += _data(values, names)
    return faults


def _app(values: Values) -> Iterator[Fault]:
    folder = Path(values["app.path"])
    if not folder.is_dir():
        yield Fault("app.path", "is not a folder", "name the folder of the Flower app")
        return
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        component = project["tool"]["flwr"]["app"]["components"]["clientapp"]
    except FileNotFoundError:
        yield Fault("app.path", "has no pyproject.toml", "name the folder of the Flower app")
    except OSError as error:
        yield Fault("app.path", f"cannot be read: {error.strerror}", "run this as root")
    except ValueError as error:
        yield Fault("app.path", f"has a pyproject.toml that is wrong: {error}", "correct it")
    except (KeyError, TypeError):
        yield Fault("app.path", "declares no clientapp", "add it under [tool.flwr.app.components]")
    else:
        if not isinstance(component, str) or component.count(":") != 1:
            yield Fault("app.path", "declares a clientapp that is not MODULE:NAME", "correct pyproject.toml")


def _approved(values: Values) -> Iterator[Fault]:
    if not Path(values["app.path"]).is_dir():
        return  # another check says so
    try:
        found = apptree.tree_sha256(Path(values["app.path"]))
    except ConfigError as error:
        yield Fault("app.path", error.message, error.hint)
        return
    if found != values["app.tree_sha256"]:
        hint = f"see what changed, then approve it: homebound app-hash {values['app.path']}"
        yield Fault("app.tree_sha256", f"but {found} lies in app.path", hint)


def _data(values: Values, names: bool) -> Iterator[Fault]:
    findings = datafolder.audit(Path(values["data.path"]), _reader(values))
    hidden = [finding for finding in findings if finding.path and not names]
    for finding in findings:
        if finding not in hidden:
            what = f"{finding.path} {finding.what}" if finding.path else finding.what
            yield Fault("data.path", what, finding.hint)
    if hidden:
        what = f"something inside {hidden[0].what} ({len(hidden)} such faults)"
        yield Fault("data.path", what, "`homebound check-config` names them")


def _reader(values: Values) -> datafolder.Reader | None:
    """Whom the trainer runs as; None when that is not clear, which is another check's fault to tell."""
    if not {"users.base", "trainer.groups"} <= values.keys():
        return None
    try:
        uid, gid = users.identity("trainer", Role.TRAINER.value, values["users.base"])
        groups = users.group_numbers(values["trainer.groups"])
    except ConfigError:
        return None
    return datafolder.Reader(uid, gid, groups)


def _certificates(values: Values) -> Iterator[Fault]:
    yield from _file("federation.root_certificates", values)
    if values["federation.root_certificates"] and values["federation.insecure"]:
        yield Fault(
            "federation.insecure", "leaves root_certificates without a use", "take one of the two out"
        )


def _node_key(values: Values) -> Iterator[Fault]:
    key = "federation.node_key"
    faults = list(_file(key, values))
    yield from faults
    if values[key] and not faults and Path(values[key]).stat().st_mode & 0o007:
        yield Fault(key, "can be read by everybody", f"chmod o= {values[key]}")


def _tls(values: Values) -> Iterator[Fault]:
    """Whether a server could start with them; the same call that the watcher makes."""
    key = "metrics.key" if values["metrics.key"] else "metrics.certificate"
    faults = [*_file("metrics.certificate", values), *_file("metrics.key", values)]
    yield from faults
    if values["metrics.key"] and not values["metrics.certificate"]:
        yield Fault("metrics.key", "has no certificate", "set metrics.certificate, or take the key out")
        return
    if faults or not values["metrics.certificate"]:
        return
    try:
        # A password of the key's own could be asked for nowhere: the empty one is tried in its place.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            values["metrics.certificate"], values["metrics.key"] or None, lambda: ""
        )
    except (ssl.SSLError, ValueError):
        yield Fault(
            "metrics.certificate", "cannot be used for TLS with its key",
            "PEM, the device's certificate first, the key of that very certificate, and without a password",
        )  # fmt: skip
        return
    if Path(values[key]).stat().st_mode & 0o007:
        yield Fault(key, "holds a private key that everybody can read", f"chmod o= {values[key]}")


def _passwords(values: Values) -> Iterator[Fault]:
    key = "metrics.passwords"
    faults = list(_file(key, values))
    yield from faults
    if not values[key] or faults:
        return
    try:
        passwords.parse(Path(values[key]).read_text(encoding="utf-8"))
    except ConfigError as error:
        yield Fault(key, error.message, error.hint)
    except ValueError:
        yield Fault(key, "is no text", "`homebound password-line NAME` prints a line of it")
    if Path(values[key]).stat().st_mode & 0o007:
        yield Fault(key, "can be read by everybody", f"chmod o= {values[key]}")


def _plain(values: Values) -> Iterator[Fault]:
    """What others on the network could read or ask for is to be meant that way."""
    if values["metrics.allow_plain"] or ipaddress.ip_address(values["metrics.address"]).is_loopback:
        return
    missing = [key for key in ("metrics.certificate", "metrics.passwords") if not values[key]]
    if missing:
        what = f"is not loopback, and nothing is set for {' and '.join(missing)}"
        hint = "set it (docs/configure.md says how), or metrics.allow_plain = true if that is meant"
        yield Fault("metrics.address", what, hint)


def _interpreter(values: Values) -> Iterator[Fault]:
    key = "trainer.python"
    if values["trainer.root"]:
        try:
            rootfs.look(values["trainer.root"], values[key])
        except ConfigError as error:
            yield Fault("trainer.root", f"is no root for a trainer: {error.message}", error.hint)
        return
    faults = list(_file(key, values))
    yield from faults
    if values[key] and not faults and not os.access(values[key], os.X_OK):
        yield Fault(key, "cannot be executed", f"chmod +x {values[key]}")


def _file(key: str, values: Values) -> Iterator[Fault]:
    """A file that must be there when it is named."""
    if not values[key]:
        return
    try:
        with Path(values[key]).open("rb"):
            pass
    except PermissionError:
        yield Fault(key, "cannot be read by you", "run this as root")
    except OSError as error:
        yield Fault(key, f"cannot be opened: {error.strerror}", "correct the path")


def _users(values: Values) -> Iterator[Fault]:
    for role in roles.OOM_SCORES:  # every role that is not root
        name = role.name.lower()
        try:
            uid, _ = users.identity(name, role.value, values["users.base"])
        except ConfigError as error:
            yield Fault("users.base", error.message, error.hint)
            return
        owner = users.name_of(uid)
        if owner not in ("", f"homebound-{name}"):
            yield Fault(
                "users.base", f"gives the {name} the number {uid}, which {owner} has", "choose 8 free numbers"
            )
            return


def _groups(values: Values) -> Iterator[Fault]:
    for name in values["trainer.groups"]:
        try:
            users.group_numbers([name])
        except ConfigError as error:
            yield Fault("trainer.groups", error.message, error.hint)


def keep_apart(settings: Settings) -> list[Fault]:
    """Whether a role other than the trainer would see the data, by the very view that it will get."""
    state = Path(settings.paths.state) / settings.name
    nobody = sandbox.Identity(uid=0, gid=0)
    others = [
        roles.watcher(nobody),
        roles.guard(nobody, state),
        roles.gateway(settings, nobody, state, Path(settings.paths.run) / settings.name),
        roles.canary(nobody, settings.trainer.root, settings.trainer.python),
    ]
    data = Path(os.path.realpath(settings.data.path))
    for spec in others:
        seen = [bind.source for bind in (*spec.view.binds, *spec.view.system)]
        for source in (*sandbox.SYSTEM, settings.app.path, *seen):
            if data.is_relative_to(os.path.realpath(source)):
                what = f"lies in {source}, which not only the trainer sees"
                return [Fault("data.path", what, "move the data to a folder of its own")]
    return []


def _state_in_data(values: Values) -> Iterator[Fault]:
    if _below("paths.state", "data.path", values):
        yield Fault("paths.state", "lies in data.path, which the trainer sees", "choose another folder")


def _run_in_data(values: Values) -> Iterator[Fault]:
    if _below("paths.run", "data.path", values):
        yield Fault("paths.run", "lies in data.path, which the trainer sees", "choose another folder")


def _below(inner: str, outer: str, values: Values) -> bool:
    real = os.path.realpath  # not Path.resolve(): it raises on a loop of links before Python 3.13
    return Path(real(values[inner])).is_relative_to(real(values[outer]))


def _socket(values: Values) -> Iterator[Fault]:
    socket = f"{values['paths.run']}/{values['name']}/status.sock"
    if len(os.fsencode(socket)) > SOCKET_PATH_MAX:
        yield Fault(
            "paths.run",
            f"is too long for a socket below it ({SOCKET_PATH_MAX} bytes)",
            "choose a shorter one",
        )


def _budget(values: Values) -> Iterator[Fault]:
    """Whether the limits leave room for a single release: else nothing would ever train."""
    noise, delta = values["guard.noise_multiplier"], values["guard.delta"]
    one = epsilon(1 / noise**2, delta) if noise > TINY else math.inf
    for key in ("guard.epsilon_limit", "guard.run_epsilon_limit"):
        limit = values[key]
        if limit and one > limit:
            cost = f"costs {one:.4g}" if noise else "has no bound without noise"
            yield Fault(
                key, f"allows no release: one {cost}", "raise guard.noise_multiplier, or 0 for no limit"
            )


def _peers(values: Values) -> Iterator[Fault]:
    """A mistyped key is a device that is never there; fewer devices than the least, a sum that never is."""
    peers, least = values["guard.secagg_peers"], values["guard.secagg_min_devices"]
    for peer in peers:
        if not is_sha256(peer):
            yield Fault("guard.secagg_peers", f"{peer!r} is no key of a ledger", "64 hexadecimal digits each")
    if peers and len({*peers}) + 1 < least:
        names = f"names {len({*peers})} devices, and {least} make a sum"
        yield Fault("guard.secagg_peers", names, "name more, or lower guard.secagg_min_devices")


CHECKS: Mapping[tuple[str, ...], Callable[[Values], Iterator[Fault]]] = {
    ("app.path",): _app,
    ("app.path", "app.tree_sha256"): _approved,
    ("federation.root_certificates", "federation.insecure"): _certificates,
    ("federation.node_key",): _node_key,
    ("metrics.certificate", "metrics.key"): _tls,
    ("metrics.passwords",): _passwords,
    ("metrics.address", "metrics.allow_plain", "metrics.certificate", "metrics.passwords"): _plain,
    ("trainer.root", "trainer.python"): _interpreter,
    ("users.base",): _users,
    ("trainer.groups",): _groups,
    ("paths.state", "data.path"): _state_in_data,
    ("paths.run", "data.path"): _run_in_data,
    ("paths.run", "name"): _socket,
    ("guard.noise_multiplier", "guard.delta", "guard.epsilon_limit", "guard.run_epsilon_limit"): _budget,
    ("guard.secagg_peers", "guard.secagg_min_devices"): _peers,
}
