# SPDX-License-Identifier: Apache-2.0
"""The HTTP port of the watcher: /, /metrics, /healthz on a listening socket that somebody else bound.

A small threaded server of the standard library. It makes no socket of its own (the watcher's filter
forbids that), resolves no name, and bounds how many connections it holds and for how long. With a TLS
context it speaks nothing else. Imports nothing of ours. Source: PEP 3333.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from socketserver import BaseServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

Headers = Sequence[tuple[str, str]]
# A scraper, a person and a health check; the rest waits in the backlog.
CONNECTIONS = 8
# A connection that says nothing for this long is closed.
IDLE_SECONDS = 5.0
# How long shutdown() may take; the daemon never calls it, so it need not wake up for it.
SHUTDOWN_SECONDS = 3600.0


class _Handler(WSGIRequestHandler):
    timeout = IDLE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name is the library's)
        """Nothing: a scrape is no event, and what a client sends must not come into our log."""

    def address_string(self) -> str:
        return str(self.client_address[0])


class _Server(ThreadingMixIn, WSGIServer):
    """The library's server without its constructor, which would make a socket and then bind it."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, listener: socket.socket, application: WSGIApplication, tls: ssl.SSLContext | None = None
    ) -> None:
        address = listener.getsockname()
        BaseServer.__init__(self, address, _Handler)
        self.socket = listener
        self.server_name, self.server_port = str(address[0]), int(address[1])
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._tls = tls
        self.setup_environ()
        self.set_app(application)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._slots.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread, so that a peer that is slow to shake hands holds up no other."""
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        request.settimeout(IDLE_SECONDS)
        with self._tls.wrap_socket(request, server_side=True) as shaken:
            super().finish_request(shaken, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or talks nonsense is not our error."""


def route(
    metrics: WSGIApplication, healthy: Callable[[], bool], page: Callable[[], bytes], headers: Headers
) -> WSGIApplication:
    """/metrics to ``metrics``; /healthz answers 200 while ``healthy()``, else 503; / is ``page()`` with
    ``headers``; all else 404."""

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _plain(start, "405 Method Not Allowed", "only GET and HEAD\n", ("Allow", "GET, HEAD"))
        if environ.get("PATH_INFO") == "/metrics":
            return metrics(environ, start)
        if environ.get("PATH_INFO") == "/":
            text = page()
            start("200 OK", [*headers, ("Content-Length", str(len(text)))])
            return [text]
        if environ.get("PATH_INFO") != "/healthz":
            return _plain(start, "404 Not Found", "there are /, /metrics and /healthz\n")
        if not healthy():
            return _plain(start, "503 Service Unavailable", "the watcher does not look\n")
        return _plain(start, "200 OK", "ok\n")

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        body = answer(environ, start)
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else body

    return application


def serve(
    listener: socket.socket,
    application: WSGIApplication,
    tls: ssl.SSLContext | None = None,
    shutdown_seconds: float = SHUTDOWN_SECONDS,
) -> WSGIServer:
    """Answer requests in threads of their own until the process ends or ``shutdown()`` is called."""
    server = _Server(listener, application, tls)
    arguments = (shutdown_seconds,)
    threading.Thread(target=server.serve_forever, args=arguments, name="metrics", daemon=True).start()
    return server


def _plain(start: StartResponse, status: str, text: str, *headers: tuple[str, str]) -> list[bytes]:
    body = text.encode()
    kind = ("Content-Type", "text/plain; charset=utf-8")
    start(status, [kind, ("Content-Length", str(len(body))), *headers])
    return [body]
