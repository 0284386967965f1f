"""Batches of a trace, and where they are computed: in this process, on forked ones, or on a Ray cluster.

A shard takes whole batches, with all clients: a product's last digits depend on its sizes and on the number of threads,
so a batch is cut the same way and computed with one thread wherever that is. Clients stay on disk: every process maps
the same file, and holds blocks of it.
"""

from __future__ import annotations

import copyreg
import ctypes
import logging
import multiprocessing
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config.checks import require_ray
from ..config.schema import Provenance
from ..errors import RunError
from ..federation.engine import can_fork, die_with
from ..store.tensorfile import TensorFile, open_tensors
from ..threads import one_thread
from .answers import packed, unpacked
from .batch import Pass, Sums, Target, trace_batch
from .calls import TooLarge
from .depth import chosen_layers, layer_weights
from .lineage import LineageRound
from .stack import Source, Stack
from .structure import Structure

LARGEST_BATCH = 64  # more inputs at a time gain nothing
PATIENCE = 5.0  # seconds that a Ray cluster gets to answer
TRIES = 3  # of a batch whose Ray worker dies, after the first


class Span(NamedTuple):
    """Inputs of one batch; `bounded`: their activations may take `memory_mb` and no more."""

    start: int
    stop: int
    bounded: bool


@dataclass(frozen=True)
class Work:
    """What is traced.

    `inputs` by argument name; the name `""` is the only positional argument. For so many of the first inputs as
    `layer_sample` says each layer's part is kept.
    """

    given: Pass
    inputs: Mapping[str, Tensor]
    targets: Sequence[Target]
    layer_sample: int

    def sums(self, span: Span) -> list[Sums]:
        """Trace one batch: its sums for each target.

        Raises:
            TooLarge: its activations take more memory than they may.
        """
        device = self.given.stack.device
        where = slice(span.start, span.stop)
        # A copy: a model may change its input in place.
        batch = {name: tensor[where].to(device, copy=True) for name, tensor in self.inputs.items()}
        targets: list[Target] = [
            (kind, None if classes is None else classes[where].to(device)) for kind, classes in self.targets
        ]
        sample = max(0, min(self.layer_sample, span.stop) - span.start)
        limit = self.given.settings.memory_mb * 2**20 if span.bounded else None
        return trace_batch(self.given, batch, targets, sample, limit)


Perform = Callable[[Sequence[Span]], Iterator[list[Sums]]]
"""Traces batches and yields their sums in order; raises TooLarge in place of the first that takes too much memory."""


def opened(model: nn.Module, source: Source, settings: Provenance) -> Pass:
    """Load the round's global weights into `model`, and prepare to read its clients."""
    structure = Structure.of(model)
    structure.load(source.weights())
    parameter = next(p for p in structure.parameters.values() if p.is_floating_point())
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    stack = Stack.open(
        source, settings.of, list(structure.parameters), parameter.device, dtype, settings.client_weighting
    )
    betas = layer_weights(structure.modules, settings.layer_decay)
    return Pass(structure, stack, settings, betas, frozenset(chosen_layers(structure.modules, settings.layers)))


def batches(work: Work) -> list[list[Sums]]:
    """Sums of each batch for each target; batches as large as memory allows, unless their size is given.

    Where a batch takes too much, it and those behind it are halved; those before it stay as they are.

    Raises:
        RunError: of a batch, or because a process died.
    """
    settings, count = work.given.settings, len(next(iter(work.inputs.values())))
    size = settings.batch_size or LARGEST_BATCH
    parts: list[list[Sums]] = []
    start = 0
    with _hands(work, -(-count // size)) as perform:
        while start < count:
            size = min(size, count - start)
            bounded = settings.batch_size is None and size > 1
            spans = [Span(first, min(count, first + size), bounded) for first in range(start, count, size)]
            try:
                for span, sums in zip(spans, perform(spans), strict=True):
                    parts.append(sums)
                    start = span.stop
            except TooLarge:
                size = -(-size // 2)
    return parts


@contextmanager
def _hands(work: Work, count: int) -> Iterator[Perform]:
    """Hands for about `count` batches, as `provenance.shards` and `provenance.shard_on` say."""
    settings = work.given.settings
    shards = settings.shards
    on_cpu = work.given.stack.device.type == "cpu"
    if shards and on_cpu and settings.shard_on is not None:
        with _ray(work, shards, settings.shard_on) as perform:
            yield perform
    elif shards and on_cpu and can_fork() and min(shards, count) > 1:
        with _forked(work, min(shards, count)) as perform:
            yield perform
    else:
        with one_thread() if shards and on_cpu else nullcontext():
            yield lambda spans: map(work.sums, spans)


_Answer = bytes | str | None  # packed sums; what went wrong; None: the batch is too large


def _answer(work: Work, span: Span) -> _Answer:
    """Trace one batch in another process."""
    try:
        return packed([replace(sums, attended=None) for sums in work.sums(span)])
    except TooLarge:
        return None
    except RunError as error:
        return str(error)


def _in_order(submit: Callable[[Span], Future[_Answer]], ahead: int, remedy: str) -> Perform:
    """Hand out so many batches `ahead` of the first that is awaited."""

    def perform(spans: Sequence[Span]) -> Iterator[list[Sums]]:
        waiting = deque[tuple[Span, Future[_Answer]]]()
        todo = deque(spans)
        try:
            while waiting or todo:
                while todo and len(waiting) < ahead:
                    span = todo.popleft()
                    waiting.append((span, submit(span)))
                span, future = waiting.popleft()
                try:
                    answer = future.result()
                except BrokenProcessPool as error:
                    where = f"inputs {span.start} to {span.stop - 1}"
                    raise RunError(f"a process that traced {where} or others of its round died; {remedy}") from error
                if answer is None:
                    raise TooLarge
                if isinstance(answer, str):
                    raise RunError(answer)
                yield unpacked(answer)
        finally:
            for _, future in waiting:
                future.cancel()

    return perform


# -- processes of this machine ---------------------------------------------------------------------------------------

_held: list[Work] = []  # in a forked process: what it traces


@contextmanager
def _forked(work: Work, shards: int) -> Iterator[Perform]:
    """Processes forked for this trace: they see its model, its inputs and the mapped file without any copy."""
    source = work.given.stack.source
    if not isinstance(source, LineageRound):  # here, so that its checksum is not computed in each process
        source.client_stack()
        source.bases()
        source.corrections()
    library = ctypes.CDLL(None)  # loaded before the fork: a child should do as little as possible
    before = multiprocessing.active_children()
    pool = ProcessPoolExecutor(
        shards, multiprocessing.get_context("fork"), initializer=_begin, initargs=(work, os.getpid(), library)
    )
    remedy = (
        "if memory ran out, try a smaller provenance.memory_mb or fewer provenance.shards (the numbers stay the same "
        "with any); the trained rounds are kept: the same command continues from there"
    )
    try:
        yield _in_order(lambda span: pool.submit(_sums_held, span), shards + 1, remedy)
    finally:
        for process in multiprocessing.active_children():
            if process not in before:
                process.kill()  # whatever it is doing: after an interrupt nobody wants the batch
        pool.shutdown(cancel_futures=True)


def _begin(work: Work, parent: int, library: ctypes.CDLL) -> None:
    die_with(parent, library)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to all processes of a job: the parent ends this one
    torch.set_num_threads(1)
    _held.append(work)


def _sums_held(span: Span) -> _Answer:
    return _answer(_held[0], span)


# -- Ray ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parcel:
    """What a worker on another machine needs to do the same; the clients stay in their file."""

    model: nn.Module
    source: Source
    settings: Provenance
    with_mass: bool
    alone: frozenset[str]
    recorded: bool
    inputs: Mapping[str, Tensor]
    targets: Sequence[Target]
    layer_sample: int

    def unpacked(self) -> Work:
        given = replace(
            opened(self.model, self.source, self.settings),
            with_mass=self.with_mass,
            alone=self.alone,
            recorded=self.recorded,
        )
        return Work(given, self.inputs, self.targets, self.layer_sample)


_unpacked: dict[str, Work] = {}  # in a Ray worker: the trace that it last worked for, by the number of its parcel


@contextmanager
def _ray(work: Work, shards: int, address: str) -> Iterator[Perform]:
    """Tasks of a Ray cluster that take one CPU each, `shards` at the same time at most."""
    require_ray()
    import ray

    copyreg.pickle(TensorFile, _by_path)
    given = work.given
    parcel = _Parcel(
        given.structure.model,
        given.stack.source,
        given.settings,
        given.with_mass,
        given.alone,
        given.recorded,
        work.inputs,
        work.targets,
        work.layer_sample,
    )
    ours = not ray.is_initialized()
    if ours:
        _connect(address, shards)
    try:
        reference = ray.put(parcel)
        remote = ray.remote(num_cpus=1, max_retries=TRIES)(_sums_of_parcel)
        perform = _in_order(lambda span: remote.remote(reference.hex(), [reference], span).future(), shards, "")
        try:
            yield perform
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:300]
            raise RunError(f"tracing on Ray failed: {reason}") from error
    finally:
        if ours:
            ray.shutdown()


def _connect(address: str, shards: int) -> None:
    """Join a running cluster, or start Ray here.

    Raises:
        RunError: there is none.
    """
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns that it will be
    place: dict[str, Any] = {"num_cpus": shards, "include_dashboard": False} if address == "local" else {}
    try:
        host, _, port = address.rpartition(":")
        if port.isdecimal() and "/" not in host:  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), PATIENCE).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **place)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"provenance.shard_on={address}: no Ray cluster answers there ({reason}): ray start --head starts one, "
            "provenance.shard_on=null traces on processes of this machine"
        ) from error


def _by_path(file: TensorFile) -> tuple[Callable[..., TensorFile], tuple[object, ...]]:
    return open_tensors, (file.path.absolute(),)  # verified where the parcel was packed


def _sums_of_parcel(number: str, reference: list[Any], span: Span) -> _Answer:
    """Trace one batch in a Ray worker, which keeps what it has unpacked for the next."""
    import ray

    torch.set_num_threads(1)
    if number not in _unpacked:
        _unpacked.clear()
        try:
            _unpacked[number] = ray.get(reference[0]).unpacked()
        except RunError as error:
            return f"{error} (the machines of a Ray cluster must see the training cache, store.cache, at the same path)"
    work = _unpacked[number]
    with work.given.structure.frozen():
        return _answer(work, span)
