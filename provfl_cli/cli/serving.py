"""A page on a small server of this machine alone: for whoever has its address, and for reading.

What keeps others out: it listens on 127.0.0.1 alone; every path begins with a random token; the Host header must be the
address that it listens on, so that no name that is made to point here (DNS rebinding) reaches it; requests that another
site's page made are refused; and there is nothing to write to: one page and one question, and no file is opened.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..errors import InputError, RunError
from ..harmless import harmless

LOOPBACK = "127.0.0.1"
LONGEST = 4_000  # characters of a request's path
SECONDS = 10  # for which a client may say nothing
Answer = Callable[[list[str]], Mapping[str, Any]]
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest stands in the page
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class PageServer(ThreadingHTTPServer):
    """Serves `page` at `/TOKEN/`, and at `/TOKEN/without?clients=0,4` what `answer` says of these clients.

    Args:
        page: the HTML.
        answer: gives an object for JSON; InputError and RunError are told to who asks.
        port: 0: any that is free.
    """

    daemon_threads = True

    def __init__(self, page: str, answer: Answer, port: int = 0) -> None:
        self.page, self.answer = page.encode(), answer
        self.token = secrets.token_urlsafe(24)
        self.one_at_a_time = threading.Lock()  # a model answers one question after the other
        super().__init__((LOOPBACK, port), _Request)

    @property
    def hosts(self) -> tuple[str, str]:
        """What the Host header may be."""
        return f"{LOOPBACK}:{self.server_port}", f"localhost:{self.server_port}"

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{self.hosts[0]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that goes away in the middle is nothing to report."""


class _Request(BaseHTTPRequestHandler):
    server: PageServer
    timeout = SECONDS
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ProvFL", ""

    def do_GET(self) -> None:
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST)
        elif self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            self._refuse(HTTPStatus.FORBIDDEN)
        elif len(self.path) > LONGEST:
            self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG)
        else:
            self._route()

    def _route(self) -> None:
        asked = urlsplit(self.path)
        empty, _, rest = asked.path.partition("/")
        token, slash, name = rest.partition("/")
        if empty or not slash or not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.NOT_FOUND)
        elif name == "":
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)
        elif name == "without":
            words = parse_qs(asked.query, max_num_fields=4).get("clients", [""])[0].split(",")
            self._send_json([word.strip() for word in words if word.strip()])
        else:
            self._refuse(HTTPStatus.NOT_FOUND)

    def _send_json(self, words: list[str]) -> None:
        status = HTTPStatus.OK
        try:
            with self.server.one_at_a_time:
                told = dict(self.server.answer(words))
        except (InputError, RunError) as error:
            status, told = HTTPStatus.BAD_REQUEST, {"reason": harmless(str(error))}
        self._send(status, "application/json", json.dumps(told, allow_nan=False).encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: HTTPStatus) -> None:
        self.close_connection = True
        self._send(status, "text/plain; charset=utf-8", f"{status.value} {status.phrase}\n".encode())

    def _read_only(self) -> None:
        """Whatever is not reading; what comes with it is not read."""
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED)

    do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = do_TRACE = do_CONNECT = _read_only

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: lines would hold the token."""
