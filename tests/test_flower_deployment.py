"""The example app on Flower's deployment runtime: a superlink and two supernodes on loopback, with TLS; and watched."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from provfl_cli.store.recorded import read_recorded
from provfl_cli.store.rounds import read_round, stored_rounds

pytestmark = pytest.mark.slow
APP = Path(__file__).parent / "flower_app"
TOOLS = Path(sys.executable).parent
SECONDS = 300  # after which anything has failed; a quiet machine needs a sixth


def certificates(folder: Path) -> None:
    """An authority of our own and a certificate of it for loopback: ca.pem, server.pem, server.key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def certified(subject: str, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(named(subject)).issuer_name(named("authority"))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
        return builder.add_extension(extension, critical=True).sign(authority, hashes.SHA256())

    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    own = certified("authority", authority, x509.BasicConstraints(ca=True, path_length=None))
    loopback = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    (folder / "ca.pem").write_bytes(own.public_bytes(pem))
    (folder / "server.pem").write_bytes(certified("localhost", server, loopback).public_bytes(pem))
    (folder / "server.key").write_bytes(
        server.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


@contextmanager
def process(*command: str, log: Path, environment: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, of which nothing is left in the end."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=cwd, start_new_session=True
        )
    try:
        yield started
    finally:
        started.terminate()
        with suppress(subprocess.TimeoutExpired):
            started.wait(10)
        end(started)


def end(started: subprocess.Popen[bytes]) -> None:
    """Kill a process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait(10)


def wait_for(what: str, ready: Callable[[], bool], until: float, logs: Path) -> None:
    while not ready():
        if time.monotonic() > until:
            tails = "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(logs.glob("*.log")))
            pytest.fail(f"waited too long for {what}\n{tails}")
        time.sleep(0.2)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_two_nodes_with_tls_one_of_which_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    certificates(tmp_path)
    (tmp_path / "home").mkdir()
    ports = free_ports(3)
    until = time.monotonic() + SECONDS
    environment = {
        **os.environ,
        "PATH": f"{TOOLS}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "FLWR_HOME": str(tmp_path / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
    }
    (tmp_path / "home" / "config.toml").write_text(
        f'[superlink.here]\naddress = "127.0.0.1:{ports[0]}"\nroot-certificates = "{tmp_path / "ca.pem"}"\n'
    )
    tls = ["--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key", "--ssl-ca-certfile", "ca.pem"]
    folder = tmp_path / "provenance"
    folder.mkdir()
    journal = folder / "flower.jsonl"

    def lines() -> list[dict]:
        return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []

    def start(name: str, *command: str) -> subprocess.Popen[bytes]:
        log = tmp_path / f"{name}.log"
        return stack.enter_context(process(*command, log=log, environment=environment, cwd=tmp_path))

    with ExitStack() as stack:
        start("superlink", "flower-superlink", *tls, "--host", "127.0.0.1", "--port", str(ports[0]),
              "--disable-runtime-dependency-installation")  # fmt: skip
        nodes = [
            start(
                f"supernode{index}",
                "flower-supernode",
                "--root-certificates",
                "ca.pem",
                *tls,
                "--superlink",
                f"127.0.0.1:{ports[0]}",
                "--host",
                "127.0.0.1",
                "--port",
                str(ports[1 + index]),
                "--node-config",
                f"partition-id={index} num-partitions=2",
            )
            for index in range(2)
        ]
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", "import digits_app.client_app"],
            cwd=APP,
            env=environment,
            check=True,
            timeout=SECONDS,
        )
        patience = max(20.0, 6 * (time.monotonic() - began))  # a round starts several such processes
        wait_for("the superlink", lambda: listening(ports[0]), until, tmp_path)
        with_model = ["--model", "digits_app.task:Net", "--data", "digits_app.task:test_data"]
        watch = [sys.executable, "-m", "provfl_cli", "watch", str(folder), *with_model, "--json"]
        watching = stack.enter_context(process(*watch, log=tmp_path / "watch.log", environment=environment, cwd=APP))
        settings = f'folder="{folder}" num-server-rounds=2 seconds-a-round={patience:.1f}'
        start("run", "flwr", "run", str(APP), "here", "--run-config", settings, "--stream")
        wait_for("round 1", lambda: len(lines()) >= 1, until, tmp_path)
        end(nodes[1])
        wait_for("round 2", lambda: len(lines()) >= 2, until, tmp_path)
        wait_for("the watch", lambda: '"round": 2' in (tmp_path / "watch.log").read_text(), until, tmp_path)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 0

    watched = [json.loads(line) for line in (tmp_path / "watch.log").read_text().splitlines() if line[0] == "{"]
    assert [[seen["name"] for seen in line["clients"]] for line in watched] == [
        ["partition-id 0", "partition-id 1"],
        ["partition-id 0"],
    ]
    assert "ended by Ctrl-C" in (tmp_path / "watch.log").read_text()
    first, second = lines()
    assert first["fused"] == [0, 1]
    assert first["dropped"] == {}
    assert second["asked"].count("partition-id 1") == 1
    assert set(second["dropped"]) == {"partition-id 1"}  # Flower may notice before the time is over, or not
    assert second["fused"] == [0]
    rounds = folder / "rounds"
    assert stored_rounds(rounds) == [1, 2]
    recorded = read_recorded(folder)
    assert recorded is not None
    assert recorded.clients == {0: "partition-id 0", 1: "partition-id 1"}
    assert recorded.labels == tuple(map(str, range(10)))
    first, second = (read_round(rounds, number) for number in (1, 2))
    assert first.clients == (0, 1)
    assert second.clients == (0,)
    assert second.metrics.failed == (1,)
    assert {name: tensor.tolist() for name, tensor in second.previous().items()} == {
        name: tensor.tolist() for name, tensor in first.weights().items()
    }
    assert first.buffers == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert not any(listening(port) for port in ports)
