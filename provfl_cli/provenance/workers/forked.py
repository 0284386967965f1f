"""Batches of a trace on forked processes of this machine."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import torch

from ...processes import die_with
from ..lineage import LineageRound
from .work import Answer, Perform, Span, Work, answer, in_order

_held: list[Work] = []  # in a forked process: what it traces


@contextmanager
def on_processes(work: Work, shards: int) -> Iterator[Perform]:
    """Processes forked for this trace: they see its model, its inputs and the mapped file without any copy."""
    source = work.setup.stack.source
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
        yield in_order(lambda span: pool.submit(_sums_held, span), shards + 1, remedy)
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


def _sums_held(span: Span) -> Answer:
    return answer(_held[0], span)
