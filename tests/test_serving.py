"""`provfl report RUN --serve`: who is let in, what is answered, and that nothing else is."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from provfl_cli.cli import main
from provfl_cli.cli.serving import LOOPBACK, PageServer
from provfl_cli.errors import InputError
from provfl_cli.run.live import compared

ASKED: list[list[str]] = []


def answer(words: list[str]) -> Mapping[str, Any]:
    if "9" in words:
        raise InputError("--without 9: no such client\x1b[2J")
    ASKED.append(words)
    return {"clients": words}


@pytest.fixture
def server() -> Iterator[PageServer]:
    ASKED.clear()
    with PageServer("<!doctype html><p>page</p>", answer) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def ask(server: PageServer, path: str, method: str = "GET", **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, server.server_port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    for name, value in ({"Host": server.hosts[0]} | {key.replace("_", "-"): v for key, v in headers.items()}).items():
        if value:
            connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, dict(response.getheaders()), body


def test_the_page_and_the_question_are_answered(server: PageServer) -> None:
    status, headers, body = ask(server, f"/{server.token}/")
    assert (status, body) == (200, b"<!doctype html><p>page</p>")
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    assert "Access-Control-Allow-Origin" not in headers
    status, _, body = ask(server, f"/{server.token}/without?clients=0,%204", Host=server.hosts[1])
    assert (status, json.loads(body)) == (200, {"clients": ["0", "4"]})
    status, _, body = ask(server, f"/{server.token}/without?clients=9")
    assert status == 400
    assert json.loads(body)["reason"] == "--without 9: no such client␛[2J"


def test_it_listens_on_this_machine_alone(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.address.startswith("http://127.0.0.1:")


def test_no_other_token_is_let_in(server: PageServer) -> None:
    assert len(server.token) >= 32
    other = PageServer("", answer)
    other.server_close()
    assert other.token != server.token
    for path in ("/", "", "/without?clients=0", f"/{server.token[:-1]}/", f"/{server.token}x/",
                 f"/{other.token}/without?clients=0", f"/{server.token}", "/%00/"):  # fmt: skip
        status, _, body = ask(server, path.encode().decode("latin-1") or "/")
        assert status == 404, path
        assert b"page" not in body
    assert ASKED == []


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost:1", "127.0.0.1:{port}.x", ""]
)
def test_no_other_host_is_answered(server: PageServer, host: str) -> None:
    status, _, body = ask(server, f"/{server.token}/without?clients=0", Host=host.format(port=server.server_port))
    assert status == 421
    assert body == b"421 Misdirected Request\n"
    assert ASKED == []


def test_pages_of_other_sites_are_refused(server: PageServer) -> None:
    for site in ("cross-site", "same-site"):
        assert ask(server, f"/{server.token}/without?clients=0", Sec_Fetch_Site=site)[0] == 403
    assert ask(server, f"/{server.token}/", Sec_Fetch_Site="same-origin")[0] == 200
    assert ASKED == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "PROPFIND"])
def test_nothing_but_reading(server: PageServer, method: str) -> None:
    status, _, _ = ask(server, f"/{server.token}/without?clients=0", method, Content_Length="0")
    assert status in (405, 501)
    assert ASKED == []


def test_no_path_leads_to_a_file(server: PageServer) -> None:
    for path in ("../../etc/passwd", "..%2f..%2fetc/passwd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd", "report.html",
                 "without/../../x", "without/", ".", "..\\..\\x", "static/main.js"):  # fmt: skip
        status, _, body = ask(server, f"/{server.token}/{path}")
        assert status == 404, path
        assert body == b"404 Not Found\n"
    assert ask(server, f"/{server.token}/{'x' * 5000}")[0] == 414
    assert ask(server, f"/{server.token}/../{server.token}/")[0] == 404


def test_what_is_no_request_does_not_end_it(server: PageServer) -> None:
    with socket.create_connection((LOOPBACK, server.server_port), timeout=5) as connection:
        connection.sendall(b"\x00\xff garbage\r\n\r\n")
        connection.recv(100)
    assert ask(server, f"/{server.token}/")[0] == 200


def test_predictions_are_compared_by_their_labels() -> None:
    first, second = np.eye(3)[[0, 0, 1, 2, 2]], np.eye(3)[[0, 1, 1, 0, 1]]
    found = compared(np.arange(5) * 2, np.array([0, 1, 0, 2, -1]), first, second)
    changed = found.pop("changed")
    assert found == {"inputs": 5, "wrong_before": 2, "wrong_after": 2, "corrected": 1, "broken": 1, "changed_inputs": 3}
    assert [(one["input"], one["label"], one["before"], one["after"]) for one in changed] == [
        (2, 1, 0, 1), (6, 2, 2, 0), (8, -1, 2, 1),
    ]  # fmt: skip


def test_what_cannot_be_served_is_said(capsys: pytest.CaptureFixture[str], workspace: Any) -> None:
    assert main(["report", "nowhere", "--serve"]) == 2
    assert "no such folder" in capsys.readouterr().err
