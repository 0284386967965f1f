"""Batches of a trace on a Ray cluster."""

from __future__ import annotations

import copyreg
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import require_ray
from ...errors import RunError
from ...store.tensorfile import TensorFile, open_tensors
from ..settings import Provenance
from ..stack import Source
from ..sums import Target
from .work import Answer, Perform, Span, Work, answer, in_order, open_setup

PATIENCE = 5.0  # seconds that a Ray cluster gets to answer


TRIES = 3  # of a batch whose Ray worker dies, after the first


@dataclass(frozen=True)
class Parcel:
    """What a worker on another machine needs to do the same; the clients stay in their file."""

    model: nn.Module
    source: Source
    settings: Provenance
    with_mass: bool
    alone: frozenset[str]
    recorded: bool
    unproven: frozenset[str]
    inputs: Mapping[str, Tensor]
    targets: Sequence[Target]
    layer_sample: int

    def unpacked(self) -> Work:
        setup = replace(
            open_setup(self.model, self.source, self.settings),
            with_mass=self.with_mass,
            alone=self.alone,
            recorded=self.recorded,
            unproven=self.unproven,
        )
        return Work(setup, self.inputs, self.targets, self.layer_sample)


_traces: dict[str, Work] = {}  # in a Ray worker: the trace that it last worked for, by the number of its parcel


@contextmanager
def on_ray(work: Work, shards: int, address: str) -> Iterator[Perform]:
    """Tasks of a Ray cluster that take one CPU each, `shards` at the same time at most."""
    require_ray()
    import ray

    copyreg.pickle(TensorFile, _by_path)
    setup = work.setup
    parcel = Parcel(
        setup.structure.model,
        setup.stack.source,
        setup.settings,
        setup.with_mass,
        setup.alone,
        setup.recorded,
        setup.unproven,
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
        perform = in_order(lambda span: remote.remote(reference.hex(), [reference], span).future(), shards, "")
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


def _sums_of_parcel(number: str, reference: list[Any], span: Span) -> Answer:
    """Trace one batch in a Ray worker, which keeps what it has unpacked for the next."""
    import ray

    torch.set_num_threads(1)
    if number not in _traces:
        _traces.clear()
        try:
            _traces[number] = ray.get(reference[0]).unpacked()
        except RunError as error:
            return f"{error} (the machines of a Ray cluster must see the training cache, store.cache, at the same path)"
    work = _traces[number]
    with work.setup.structure.frozen():
        return answer(work, span)
