# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with the federation, as a closed set of codes, each with words and a hint.

A code goes into status, journal and metric; nothing that the peer wrote is passed on.
Also reads codes out of what happened: an answer other than 200, or a link that failed.
May import: errors, gateway.wire.
"""

from __future__ import annotations

import contextlib
import email.utils
import enum
import errno
import ssl
from collections.abc import Iterator, Mapping
from datetime import datetime

import httpcore
import httpx

from homebound.errors import ServiceUnavailable
from homebound.gateway.wire import ResponseTooLarge


class Trouble(enum.StrEnum):
    """Why the federation cannot be used, or why one task of it is at an end."""

    UNREACHABLE = "unreachable"
    GONE = "gone"
    WALL = "wall"
    CERTIFICATE = "certificate"
    PROTOCOL = "protocol"
    VERSION = "version"
    CLOCK = "clock"
    KEY_BUSY = "key_busy"
    KEY_UNKNOWN = "key_unknown"
    FORGOTTEN = "forgotten"
    SERVER_ERROR = "server_error"
    RUN_OVER = "run_over"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    NOT_WANTED = "not_wanted"


WORDS: Mapping[Trouble, tuple[str, str]] = {
    Trouble.UNREACHABLE: (
        "the federation does not answer",
        "check federation.address and that the SuperLink runs",
    ),
    Trouble.GONE: (
        "the federation broke the connection",
        "nothing to do if it comes back: what was released is kept and sent again",
    ),
    Trouble.WALL: (
        "the kernel refused the connection",
        "if the federation's address changed, restart homebound so that the name is resolved again",
    ),
    Trouble.CERTIFICATE: (
        "the federation's certificate is not trusted",
        "set federation.root_certificates to the authority that signed it, and address to a name in it",
    ),
    Trouble.PROTOCOL: (
        "what answers there does not speak Flower's Fleet API over this kind of link",
        "check the port, federation.insecure, and that the SuperLink is Flower 1.42",
    ),
    Trouble.VERSION: (
        "the federation runs another version of Flower",
        "device and SuperLink must share the minor version: install Flower 1.42 on both",
    ),
    Trouble.CLOCK: (
        "the device clock differs from the federation's",
        "set the clock (timedatectl set-ntp true); it may be 5 s ahead or 300 s behind at most",
    ),
    Trouble.KEY_BUSY: (
        "the federation still holds a session of this device's key",
        "wait: it ends about 60 s after a crash; if it stays, another device uses the same key",
    ),
    Trouble.KEY_UNKNOWN: (
        "the federation does not know this device's key",
        "let its operator run: flwr supernode register PUBLIC_KEY; then set federation.node_key",
    ),
    Trouble.FORGOTTEN: (
        "the federation forgot this device",
        "nothing to do: it registers again (a SuperLink without --database forgets at each start)",
    ),
    Trouble.SERVER_ERROR: (
        "the federation answered with an error",
        "look into the log of the SuperLink",
    ),
    Trouble.RUN_OVER: ("the run is over", "nothing to do: its task was dropped"),
    Trouble.TOO_LARGE: (
        "the federation sent more than this device takes",
        "raise guard.max_update_bytes if the model is meant to be that large",
    ),
    Trouble.MALFORMED: (
        "the federation sent a task that cannot be read",
        "look at the ServerApp: only arrays, metrics and config values can cross",
    ),
    Trouble.NOT_WANTED: (
        "the federation no longer wanted the update",
        "nothing to do; the time that the message was valid for may be too short",
    ),
}

# These end one task; all others mean that the connection has to be made anew.
TASK_TROUBLES = frozenset({Trouble.RUN_OVER, Trouble.TOO_LARGE, Trouble.MALFORMED, Trouble.NOT_WANTED})


class FederationError(ServiceUnavailable):
    """A trouble, with what else this device itself knows about it in ``detail``."""

    def __init__(self, code: Trouble, detail: str = "") -> None:
        message, hint = WORDS[code]
        super().__init__(f"{message}: {detail}" if detail else message, hint)
        self.code = code

    @property
    def ends_task(self) -> bool:
        """Whether only the task at hand is at an end; the connection is still good."""
        return self.code in TASK_TROUBLES


# flwr.supercore.error.ApiErrorCode, not imported because it takes a web framework (19 MB) with it.
KEY_IN_USE, VERSION_REFUSED, REGISTRATION_OFF, ACTIVATION_REFUSED, RUN_STATUS, NO_SUCH_RUN = (
    23, 1001, 2001, 2004, 2007, 2008,
)  # fmt: skip
# flwr.superlink.routers.fleet.node_auth takes a signature from 5 s in the future to 305 s in the past.
# The Date header that the difference is seen by is in whole seconds.
CLOCK_AHEAD, CLOCK_BEHIND = 4.0, -300.0


class Answered(Exception):
    """An answer that is not 200. ``code`` is Flower's number, 0 if it gave none; ``ahead`` is how many
    seconds our clock, which showed ``at``, is ahead of the peer's."""

    def __init__(self, response: httpx.Response, at: datetime) -> None:
        super().__init__(f"HTTP status {response.status_code}")
        self.status = response.status_code
        self.code = 0
        self.ahead = 0.0
        with contextlib.suppress(ValueError, TypeError, KeyError):
            self.code = int(response.json()["code"])
        with contextlib.suppress(ValueError, TypeError):
            served = email.utils.parsedate_to_datetime(response.headers.get("date", ""))
            self.ahead = (at - served).total_seconds()

    def explain(self) -> FederationError:
        """The error of ours that this answer means."""
        if self.code == VERSION_REFUSED:
            return FederationError(Trouble.VERSION)
        if self.code in (RUN_STATUS, NO_SUCH_RUN):
            return FederationError(Trouble.RUN_OVER)
        if self.status == httpx.codes.UNAUTHORIZED:
            if self.ahead > CLOCK_AHEAD or self.ahead < CLOCK_BEHIND:
                side = "ahead" if self.ahead > 0 else "behind"
                return FederationError(Trouble.CLOCK, f"{abs(self.ahead):.0f} s {side}")
            return FederationError(Trouble.FORGOTTEN)
        if 300 <= self.status < 400 or self.status in (404, 405, 415):
            return FederationError(Trouble.PROTOCOL)
        return FederationError(Trouble.SERVER_ERROR, f"status {self.status}, code {self.code}")


@contextlib.contextmanager
def explaining_link() -> Iterator[None]:
    """Failures of the link as FederationError."""
    try:
        yield
    except ResponseTooLarge as error:
        raise FederationError(Trouble.TOO_LARGE) from error
    except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
        # httpcore raises it again "from None", which leaves only the context.
        raise FederationError(*_not_connected(error.__cause__ or error.__context__)) from error
    except httpcore.TimeoutException as error:
        raise FederationError(Trouble.UNREACHABLE, "no answer in time") from error
    except httpcore.NetworkError as error:
        raise FederationError(Trouble.GONE) from error
    except httpcore.RemoteProtocolError as error:
        # httpcore's words for an end instead of an answer, and for one in the middle of an answer.
        ended = "disconnected" in str(error) or "closed connection" in str(error)
        raise FederationError(Trouble.GONE if ended else Trouble.PROTOCOL) from error
    except ValueError as error:  # flwr: "Invalid protobuf response payload"
        raise FederationError(Trouble.PROTOCOL) from error


def _not_connected(cause: BaseException | None) -> tuple[Trouble, str]:
    """Why no connection came to be, from what the system said; certificate words are OpenSSL's own."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Trouble.CERTIFICATE, cause.verify_message
    if isinstance(cause, ssl.SSLError):
        return Trouble.PROTOCOL, (cause.reason or "").lower().replace("_", " ")
    if isinstance(cause, OSError) and cause.errno in (errno.EPERM, errno.EACCES):
        return Trouble.WALL, ""
    if isinstance(cause, OSError) and cause.errno is not None:
        return Trouble.UNREACHABLE, errno.errorcode.get(cause.errno, "").lower()
    return Trouble.UNREACHABLE, "no answer in time" if isinstance(cause, TimeoutError) else ""
