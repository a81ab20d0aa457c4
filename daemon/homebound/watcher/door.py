# SPDX-License-Identifier: Apache-2.0
"""Who may come in at the metrics port: the TLS side of a connection, and a name with a password.

Knows nothing of sockets; endpoint.py asks. May import: passwords.
Source: RFC 7617 (basic authentication), ssl.SSLContext.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from homebound import passwords
from homebound.passwords import Kept

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

# A probe of a load balancer has no password, and this answer says nothing but that somebody looks.
OPEN = frozenset({"/healthz"})
BODY = b"a name and a password are needed\n"


def tls(certificate: str, key: str = "") -> ssl.SSLContext:
    """A server's context, TLS 1.2 or newer. The paths are of PEM files; without ``key`` the first has it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key or None, lambda: "")  # a password is asked for nowhere
    return context


class Passwords:
    """Whether an Authorization header is right.

    A right one is remembered by a keyed digest, so that a scrape every few seconds does not cost a scrypt
    each; a wrong one costs it every time, and one at a time, so that guessing takes no more than its memory.
    """

    def __init__(
        self, known: Mapping[str, Kept], random: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._known = known
        self._key = random(32)
        self._right: set[bytes] = set()
        self._one_at_a_time = threading.Lock()

    def admit(self, header: str) -> bool:
        """Whether this is ``Basic`` with a name and password that belong together."""
        digest = hmac.digest(self._key, header.encode("utf-8", "replace"), hashlib.sha256)
        if digest in self._right:
            return True
        pair = _pair(header)
        if pair is None:
            return False
        with self._one_at_a_time:
            right = passwords.fit(self._known, *pair)
        # One spelling a name is the rule; a client that varies base64 must not fill the memory.
        if right and len(self._right) < 2 * len(self._known):
            self._right.add(digest)
        return right


def ask(application: WSGIApplication, known: Passwords) -> WSGIApplication:
    """``application`` for those who have a password; 401 for others, whatever they ask for."""

    def asking(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path, header = environ.get("PATH_INFO"), environ.get("HTTP_AUTHORIZATION", "")
        if path in OPEN or known.admit(header):
            return application(environ, start)
        start(
            "401 Unauthorized",
            [
                ("WWW-Authenticate", 'Basic realm="homebound", charset="UTF-8"'),
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Content-Length", str(len(BODY))),
            ],
        )
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [BODY]

    return asking


def _pair(header: str) -> tuple[str, str] | None:
    scheme, _, words = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(words.strip(), validate=True).decode().partition(":")
    except (ValueError, binascii.Error):
        return None
    return (name, password) if colon else None
