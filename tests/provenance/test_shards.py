"""One trace on several processes: the same bytes however it is spread, and no process that dies unnoticed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from provfl_cli import checks
from provfl_cli.config.validate import provenance_preset
from provfl_cli.errors import InputError, RunError
from provfl_cli.processes import can_fork
from provfl_cli.provenance.contributions import Contributions
from provfl_cli.provenance.lineage import lineage_round
from provfl_cli.provenance.sums import Sums
from provfl_cli.provenance.tracing import trace, trace_targets
from provfl_cli.provenance.workers import batches as shards
from provfl_cli.provenance.workers import work as work_of_shards
from provfl_cli.provenance.workers.answers import packed, unpacked
from provfl_cli.store.rounds import Round

from ..lineages import chain, composed_fusion
from .federations import federation, settings
from .lineage_work import work
from .networks import LeNet, classifier, texts

pytestmark = pytest.mark.skipif(not can_fork(), reason="shards are forked on Linux, without a GPU")


class Normed(nn.Module):
    """Convolutions with BatchNorm, and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.second, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.first(x)).relu()
        x = (x + self.norm2(self.second(x))).relu()
        return self.last(x.mean((2, 3)))


def lenet() -> tuple[nn.Module, Tensor]:
    return LeNet(), torch.randn(40, 1, 28, 28)


def normed() -> tuple[nn.Module, Tensor]:
    return Normed(), torch.randn(40, 3, 12, 12)


def text() -> tuple[nn.Module, Tensor]:
    return classifier("gpt2", torch.float32), texts(tuple(1 + n % 9 for n in range(40)))


def assert_equal(answer: Contributions, other: Contributions) -> None:
    """Byte for byte."""
    for field in fields(Contributions):
        ours, theirs = getattr(answer, field.name), getattr(other, field.name)
        if field.name == "layers":
            assert [layer.layer for layer in ours] == [layer.layer for layer in theirs]
            for left, right in zip(ours, theirs, strict=True):
                for name in ("contributions", "active", "neurons"):
                    assert getattr(left, name).tobytes() == getattr(right, name).tobytes(), (left.layer, name)
        elif field.name == "rows":
            assert {kind: row.tobytes() for kind, row in ours.items()} == {k: r.tobytes() for k, r in theirs.items()}
        elif isinstance(ours, np.ndarray):
            assert ours.dtype == theirs.dtype
            assert ours.tobytes() == theirs.tobytes(), field.name
        else:
            assert ours == theirs, field.name


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [lenet, pytest.param(normed, marks=pytest.mark.slow), pytest.param(text, marks=pytest.mark.slow)]
)
def test_the_bytes_do_not_depend_on_the_shards(make: Callable[[], tuple[nn.Module, Tensor]]) -> None:
    torch.manual_seed(0)
    model, inputs = make()
    source, _ = federation(model, clients=7)
    threads = torch.get_num_threads()

    def traced(count: int | None) -> Contributions:
        own = settings(of="weights", threshold=0.01, batch_size=16, shards=count)
        return trace(model, inputs, source, own, layer_sample=20)  # the sample lies in two batches

    single = traced(1)
    for count in (2, 3):
        assert_equal(traced(count), single)
    assert torch.get_num_threads() == threads
    without = traced(None)
    assert np.abs(without.values - single.values).max() <= 1e-5 * np.abs(single.values).max()
    assert len(single.layers) > 0
    assert single.layers[0].contributions.shape == (20, 7)


def test_what_a_process_answers_is_arrays_and_json_and_comes_back_as_it_was() -> None:
    shared = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    sums = Sums(
        rows=shared.T,
        right=shared[:, 0],
        mass=torch.tensor([float("nan"), -0.0]),
        wanted=torch.tensor([1, 2]),
        logits=torch.zeros(2, 0),
        layers={"a.b": shared, "ünï\n": shared[:1]},
        masked={"z": None, "a": None},
        seen={"w", "b"},
        unruled={"x": "why"},
        pool=[("layer", "weight", shared)],
    )
    answer = packed([sums, sums])
    assert not answer.startswith(b"\x80")  # as pickles begin
    for again in unpacked(answer):
        for field in fields(Sums):
            ours, theirs = getattr(sums, field.name), getattr(again, field.name)
            assert type(ours) is type(theirs)
            if isinstance(ours, Tensor):
                assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
                assert ours.contiguous().numpy().tobytes() == theirs.numpy().tobytes()
        assert list(again.masked) == ["z", "a"]
        assert (again.seen, again.unruled, list(again.layers)) == (sums.seen, sums.unruled, list(sums.layers))
        assert torch.equal(again.pool[0][2], shared)


@pytest.mark.parametrize("cut", [slice(0, 0), slice(0, 40), slice(9, None)])
def test_an_answer_that_is_none_is_refused(cut: slice) -> None:
    answer = packed([Sums(*(torch.zeros(2) for _ in range(5)))])
    with pytest.raises(RunError, match="something else than its sums"):
        unpacked(answer[cut])


class Canary:
    """Tells when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path(os.environ["CANARY"]),)  # type: ignore[return-value]


def test_a_pickle_in_place_of_an_answer_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    with pytest.raises(RunError, match="something else than its sums"):
        unpacked(pickle.dumps(Canary()))
    assert not (tmp_path / "canary").exists()


@pytest.mark.slow
def test_batches_are_halved_as_one_process_halves_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three sizes of inputs: what fits of the first does not of the second, and less of the third."""

    class Repeat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(1, 64), nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            width = int(x.max())  # of the widest in the batch
            return self.last(self.first(x[:, :1, None]).expand(-1, width, -1).contiguous().relu().mean(1))

    torch.manual_seed(0)
    model = Repeat()
    source, _ = federation(model)
    inputs = torch.cat([torch.full((70, 1), 1.0), torch.full((50, 1), 200.0), torch.full((30, 1), 1500.0)])
    cuts: list[list[int]] = []
    collect = shards.batches

    def noted(work: work_of_shards.Work) -> list[list[Sums]]:
        sums_of_batches = collect(work)
        cuts.append([len(sums.rows) for (sums,) in sums_of_batches])
        return sums_of_batches

    monkeypatch.setattr("provfl_cli.provenance.tracing.batches", noted)
    results = [trace(model, inputs, source, settings(memory_mb=3, shards=count)) for count in (None, 1, 2, 3)]
    assert len(set(cuts[0])) >= 3
    assert cuts[1:] == [cuts[0]] * 3
    for result in results[2:]:
        assert_equal(result, results[1])


@pytest.mark.slow
def test_several_targets_and_the_second_look_are_spread_too(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, inputs = LeNet(), torch.randn(20, 1, 28, 28)
    source, _ = federation(model)
    monkeypatch.setattr("provfl_cli.provenance.tracing.suspicious", lambda residual, dtype: True)
    targets = [("logit", None), ("centred", [1] * 20)]
    single, double = (
        trace_targets(model, inputs, source, settings(batch_size=8, shards=count), targets) for count in (1, 2)
    )
    for left, right in zip(single, double, strict=True):
        assert_equal(left, right)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Round:
    """The last of three rounds of FedAvgM on disk, with momentum, noise, and a late client."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stored")
    return chain(folder, composed_fusion("fedavgm"), LeNet().state_dict(), work, 3)[-1]


@pytest.mark.slow
def test_stored_rounds_and_their_lineage_are_spread(stored: Round) -> None:
    inputs = torch.randn(40, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    for source in (stored, lineage_round(stored)):
        single, double = (trace(LeNet(), inputs, source, settings(batch_size=16, shards=count)) for count in (1, 2))
        assert set(single.rows) >= {"noise"}
        assert_equal(single, double)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_on_ray_the_bytes_are_the_same_also_where_a_worker_dies(stored: Round, tmp_path: Path) -> None:
    killed, parent = tmp_path / "killed", os.getpid()

    class Dying(LeNet):
        def forward(self, x: Tensor) -> Tensor:
            if os.getpid() != parent and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().forward(x)

    inputs = torch.randn(40, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for source in (stored, lineage_round(stored)):
            here = trace(LeNet(), inputs, source, settings(batch_size=16, shards=1), layer_sample=20)
            own = settings(batch_size=16, shards=2, shard_on="local")
            assert_equal(trace(Dying(), inputs, source, own, layer_sample=20), here)
        assert killed.exists()
        assert ray.is_initialized()  # who has started it ends it
    finally:
        ray.shutdown()


def die(forward: object, batch: dict[str, Tensor], *rest: object) -> list[Sums]:
    if os.getpid() != PARENT and len(batch[""]) < 16:
        os.kill(os.getpid(), signal.SIGKILL)
    return TRACE_BATCH(forward, batch, *rest)  # type: ignore[arg-type]


PARENT, TRACE_BATCH = os.getpid(), work_of_shards.trace_batch


def test_a_process_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = lenet()
    source, _ = federation(model)
    monkeypatch.setattr(work_of_shards, "trace_batch", die)
    with pytest.raises(RunError, match=r"died; .*memory_mb .*the same command continues"):
        trace(model, inputs, source, settings(batch_size=16, shards=2))
    assert multiprocessing.active_children() == []


def test_an_error_in_a_process_is_that_of_the_trace() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x)[:, :2, None]

    model = Mixed()
    source, _ = federation(model)
    with pytest.raises(RunError, match=r"logits .* are needed"):
        trace(model, torch.randn(9, 4), source, settings(batch_size=3, shards=2))
    assert multiprocessing.active_children() == []


def test_settings_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance_preset("provfl").shards is None
    assert provenance_preset("provfl").shard_on is None
    with pytest.raises(InputError, match=r"provenance\.shards=0"):
        settings(shards=0)
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    settings(shard_on="auto")  # without shards nobody asks for Ray
    with pytest.raises(InputError, match=r"provfl\[flower\]"):
        settings(shards=2, shard_on="auto")


@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_a_cluster_that_is_not_there_is_named() -> None:
    model, inputs = lenet()
    source, _ = federation(model)
    with pytest.raises(RunError, match=r"provenance\.shard_on=127\.0\.0\.1:9: no Ray cluster answers"):
        trace(model, inputs, source, settings(shards=2, shard_on="127.0.0.1:9"))
