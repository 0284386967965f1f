"""The batches of a trace: how large they are, and on whose hands.

A shard takes whole batches, with all clients: a product's last digits depend on its sizes and on the number of threads,
so a batch is cut the same way and computed with one thread wherever that is. Clients stay on disk: every process maps
the same file, and holds blocks of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch

from ...processes import can_fork, one_thread
from ..calls import TooLarge
from ..response_score import ResponseScore
from ..sums import Sums
from .forked import on_processes
from .ray import on_ray
from .work import Perform, Span, Work

LARGEST_BATCH = 64  # more inputs at a time gain nothing
LARGEST_ON_GPU = 512  # but on a GPU, to which every batch has the clients copied
MOST_TOKENS = 512  # of responses; those of one share most of what is computed


def batches(work: Work) -> list[list[Sums]]:
    """Sums of each batch for each target; batches as large as memory allows, unless their size is given.

    Where a batch takes too much, it and those behind it are halved; those before it stay as they are.

    Raises:
        RunError: of a batch, or because a process died.
    """
    settings, count = work.setup.settings, len(next(iter(work.inputs.values())))
    tokens = isinstance(work.setup.structure.model, ResponseScore) and not settings.shards  # which share batches out
    largest = LARGEST_ON_GPU if work.setup.stack.device.type == "cuda" else LARGEST_BATCH
    size = settings.batch_size or (MOST_TOKENS if tokens else largest)
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
    settings = work.setup.settings
    shards = settings.shards
    on_cpu = work.setup.stack.device.type == "cpu"
    if shards and on_cpu and settings.shard_on is not None:
        with on_ray(work, shards, settings.shard_on) as perform:
            yield perform
    elif shards and on_cpu and can_fork() and min(shards, count) > 1:
        with on_processes(work, min(shards, count)) as perform:
            yield perform
    else:
        with one_thread() if shards and on_cpu else nullcontext():
            yield lambda spans: (_as_memory_allows(work, span) for span in spans)


def _as_memory_allows(work: Work, span: Span) -> list[Sums]:
    """Sums of one batch; where the GPU's memory runs out, in smaller blocks of clients, after smaller batches.

    Raises:
        TooLarge: with fewer inputs it may do.
    """
    try:
        return work.sums(span)
    except torch.OutOfMemoryError:  # its traceback holds what had been computed
        pass
    torch.cuda.empty_cache()
    if span.stop - span.start > 1:
        raise TooLarge
    stack = replace(work.setup.stack, numbers=None, joined={}, scratch=[])
    return replace(work, setup=replace(work.setup, stack=stack)).sums(span)


# -- processes of this machine ---------------------------------------------------------------------------------------


# -- Ray ---------------------------------------------------------------------------------------------------------------
