"""`engine=flower`: the numbers of `engine=local`, clients and workers that fail, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from provfl_cli.config.compose import compose_jobs, validated
from provfl_cli.config.plain import as_text, from_text
from provfl_cli.config.schema import Config
from provfl_cli.data.load import federated_data
from provfl_cli.errors import InputError, RunError
from provfl_cli.federation import events
from provfl_cli.federation.key import training_key
from provfl_cli.federation.participation import Arrival, Participant, Roster, rosters, without
from provfl_cli.federation.train import federated_rounds
from provfl_cli.models.build import build
from provfl_cli.store.rounds import Round
from tests.failing import Failing

SMALL = (
    "dataset=digits",
    "federation.clients=4",
    "federation.rounds=2",
    "federation.local_epochs=1",
    "partition=iid",
    "engine.workers=2",
)
installed = pytest.mark.skipif(
    find_spec("flwr") is None or find_spec("ray") is None, reason="the extra flower is not installed"
)


def config(*argv: str) -> Config:
    ((_, cfg),) = compose_jobs([*SMALL, *argv])
    return validated(cfg)


def train(place: Path, settings: Config, name: str = "") -> tuple[list[Round], list[events.Event], Path]:
    """All rounds of a federation, what was told meanwhile, and where they are stored."""
    data, seen = federated_data(settings), list[events.Event]()
    model = build(settings.model, data.form, len(data.label_names), settings.seed)
    wanted, cache = set(range(1, settings.federation.rounds + 1)), place / (name or settings.engine.name)
    device = torch.device("cpu")
    with federated_rounds(settings, data, model, cache, wanted, device, seen.append, place) as rounds:
        stored = list(rounds)
    (entry,) = (cache / "federations").glob("[0-9a-f]*")
    return stored, seen, entry


def content(entry: Path) -> dict[str, bytes]:
    """All tensors of a federation, byte by byte."""
    return {str(path.relative_to(entry)): path.read_bytes() for path in sorted(entry.rglob("*.safetensors"))}


def told(seen: list[events.Event]) -> list[events.ClientFailed]:
    return [event for event in seen if isinstance(event, events.ClientFailed)]


def of_ray() -> dict[int, str]:
    """Ray's processes that this user runs, in temporary folders of ours."""
    processes = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode()
            environment = (path.parent / "environ").read_bytes() if "ray::" in line else b""
            if f"{tempfile.gettempdir()}/provfl-" in line or b"/provfl-" in environment:
                processes[int(path.parent.name)] = line
    return processes


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


@contextmanager
def nothing_left() -> Iterator[None]:
    """Within the block Ray may run; a moment after it nothing of it does, and its folder is gone."""
    before, folders = of_ray(), set(Path(tempfile.gettempdir()).glob("provfl-*"))
    yield
    assert wait_for(lambda: not of_ray().keys() - before.keys(), 5), of_ray()
    assert set(Path(tempfile.gettempdir()).glob("provfl-*")) <= folders


@pytest.mark.slow
def test_a_configuration_travels_as_text() -> None:
    for argv in (
        (
            "fusion=krum",
            "federation.clients=6",
            "federation.joins={3: 2}",
            "injection=label_flip",
            "federation.learning_rate=1e-5",
        ),
        ("privacy=central_dp", "model.norm=group", "model=resnet18", "dataset=mnist"),
        ("dataset=languages", "model=gpt_mini", "partition=dirichlet", "provenance=faithful"),
    ):
        there = replace(config(*argv), attribution=())
        assert from_text(as_text(there)) == there


def test_the_rosters_as_they_came_out() -> None:
    first = Roster(1, (Participant(0, 2), Participant(1, 2), Participant(2, 2, 1)), dropped=(3,))
    second = Roster(2, (Participant(0, 2),), (Arrival(2, 1),))
    assert without([first, second], {}) == [first, second]
    after, then = without([first, second], {1: [1, 2]})
    assert after == Roster(1, (Participant(0, 2),), dropped=(1, 2, 3))
    assert then == Roster(2, (Participant(0, 2),))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["engine.on_failure=ignore"], "engine.on_failure=ignore: accepted: dropout, retry"),
        pytest.param(["engine.retries=-1"], "must be 0 or more", marks=pytest.mark.slow),
        pytest.param(["engine.timeout=0"], "above 0 and at most", marks=pytest.mark.slow),
        (["engine.address=head:6379"], "leave engine.workers out"),
        pytest.param(["engine.gpus_per_client=1.5"], "only whole GPUs", marks=pytest.mark.slow),
        pytest.param(["engine.gpus_per_client=-1"], "must be 0 or more", marks=pytest.mark.slow),
        pytest.param(["engine.cpus_per_client=0"], "must be 1 or more", marks=pytest.mark.slow),
    ],
)
@installed
def test_settings_that_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config("engine=flower", *overrides)


@pytest.mark.slow
def test_without_the_packages_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provfl_cli.checks.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'provfl\[flower\]'"):
        config("engine=flower")


@pytest.mark.slow
@installed
def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this machine has no GPU"):
        train(tmp_path, config("engine=flower", "engine.gpus_per_client=0.5"))


@pytest.mark.slow
@installed
def test_failing_clients_that_drop_out_have_a_cache_of_their_own(tmp_path: Path) -> None:
    """Everything else about the engine is no part of a federation's name."""
    settings = config()
    data = federated_data(settings)
    model = build(settings.model, data.form, len(data.label_names), settings.seed)

    def key(*argv: str) -> str:
        return training_key(config(*argv), data, model, torch.device("cpu"))[0]

    assert key() == key("engine=flower") == key("engine=flower", "engine.retries=0", "engine.workers=1")
    assert key() != key("engine=flower", "engine.on_failure=dropout")


@installed
@pytest.mark.slow
def test_the_same_bytes_as_the_local_engine_whoever_has_to_be_asked_again(tmp_path: Path) -> None:
    """In round 1 a Ray worker is killed in mid-work, in round 2 a client raises twice; control variates travel too."""
    argv = ["fusion=scaffold", "federation.stragglers=0.4", "federation.straggler_work=partial"]
    argv += ["federation.local_epochs=2", "federation.rounds=3"]
    expected, _, here = train(tmp_path, config(*argv))
    failing = Failing(str(tmp_path), [[1, 1, "kill", 1], [3, 2, "raise", 2]])
    with nothing_left():
        rounds, seen, there = train(tmp_path, replace(config("engine=flower", *argv), injection=failing))
    reasons = [
        "client 1 failed in round 1: its worker process died",
        *["client 3 failed in round 2: ValueError: a disk is on fire"] * 2,
    ]
    assert [(event.reason, event.again) for event in told(seen)] == [(reason, True) for reason in reasons]
    assert content(here) == content(there)
    assert len(content(here)) > 10
    assert here.name == there.name
    assert [replace(stored.metrics, seconds=0) for stored in rounds] == [
        replace(stored.metrics, seconds=0) for stored in expected
    ]
    assert sum(event.seconds for event in seen if isinstance(event, events.TrainingEnded)) > 0
    starting = [event for event in seen if isinstance(event, events.EngineStarting)]
    assert [event.log for event in starting] == [tmp_path / "flower.log"]
    assert "A worker died" in starting[0].log.read_text()


@installed
@pytest.mark.slow
def test_clients_that_fail_drop_out(tmp_path: Path) -> None:
    """One raises, one takes too long: of late work that failed nothing arrives in a later round."""
    argv = ["engine.on_failure=dropout", "engine.timeout=12", "federation.rounds=4", "federation.stragglers=0.3"]
    plain = config("engine=flower", *argv)
    roster = rosters(plain.federation, range(4), [360] * 4, plain.seed, 4)
    (late, *_) = [work.position for work in roster[1].trained if work.delay]
    (early, *_) = [work.position for work in roster[3].trained if not work.delay]
    failing = Failing(str(tmp_path), [[late, 2, "raise", 1], [early, 4, "hang", 1]])
    with nothing_left():
        rounds, seen, _ = train(tmp_path, replace(plain, injection=failing))
    assert [(event.client, event.round, event.again) for event in told(seen)] == [(late, 2, False), (early, 4, False)]
    assert told(seen)[1].reason == f"client {early} did not return in round 4 within engine.timeout=12 seconds"
    assert [stored.metrics.failed for stored in rounds] == [(), (late,), (), (early,)]
    came = without(roster, {2: [late], 4: [early]})
    assert [stored.clients for stored in rounds] == [tuple(work.position for work in arrived.fused) for arrived in came]
    assert late in [work.position for work in roster[2].arriving]
    for stored in rounds:
        assert sum(stored.example_weights) == pytest.approx(1)
        for name, value in stored.weights().items():
            mean = torch.einsum(
                "k,k...->...", stored.decomposition.example_weights, stored.client_stack()[name].double()
            )
            if not stored.bases():
                torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-6)


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """A Ray cluster of one machine that somebody else has started; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}", "--disable-usage-stats"]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
    try:
        assert wait_for(lambda: "Ray runtime started" in (folder / "head.log").read_text(), 60)
        yield f"127.0.0.1:{port}"
        assert head.poll() is None, "the cluster goes on"
    finally:
        head.terminate()
        head.wait(20)


@installed
@pytest.mark.slow
def test_a_client_that_goes_on_failing_ends_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    """On a cluster that runs already, and goes on running; this process has used it before, as shards on Ray do."""
    import ray

    with tempfile.TemporaryDirectory(dir="/tmp") as folder, cluster(Path(folder)) as address:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        ray.shutdown()
        capfd.readouterr()
        failing = Failing(folder, [[2, 1, "raise", 9]])
        settings = config("engine=flower", f"engine.address={address}", "engine.workers=null", "engine.retries=1")
        with pytest.raises(RunError, match=r"^client 2 failed in round 1: ValueError: a disk is on fire \(2 times\)"):
            train(Path(folder), replace(settings, injection=failing))
        assert failing.tried(2, 1) == 2
    assert capfd.readouterr() == ("", ""), "what Flower and Ray say is in their log"


@installed
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_interrupt_leaves_nothing_behind(workspace: Path) -> None:
    argv = [*SMALL, "engine=flower", "federation.rounds=500", "hydra.run.dir=result"]
    with nothing_left():
        started = subprocess.Popen(
            [sys.executable, "-m", "provfl_cli", "run", *argv],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert wait_for(lambda: any(Path("outputs").glob("cache/federations/*/rounds/[0-9]*")), 90)
        assert of_ray()
        started.send_signal(signal.SIGINT)
        output, errors = started.communicate(timeout=20)
    assert started.returncode == 130, errors
    assert errors == "provfl: interrupted; the same command goes on from the last whole round\n"
    assert "starting Flower on Ray, 2 clients at a time; what it says itself is in result/flower.log" in " ".join(
        output.split()
    )
