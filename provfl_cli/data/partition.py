"""Split training examples over clients with the partitioners of Flower Datasets, then cap and drop.

One partition is one frozen dataclass here and one file in `conf/partition/`. All take, in this order: a cap on a
client's examples, a minimum for a label on a client (rarer labels are dropped from it), a minimum for a client.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ..checks import COUNT, Range, in_range
from ..config.parts import Partition
from ..config.share import Share
from ..errors import InputError
from ..fusion.federation import Federation
from ..imports import later, put_off

if TYPE_CHECKING:
    import datasets
    import flwr_datasets
    import numpy as np
    from flwr_datasets.partitioner import Partitioner
else:
    datasets, flwr_datasets, np = later("datasets"), later("flwr_datasets"), later("numpy")


@dataclass(frozen=True)
class Limits:
    """What every partition has: how much a client keeps of its share, and what it needs to take part."""

    max_examples_per_client: Annotated[int | None, COUNT] = None
    min_examples_per_label: Annotated[int, COUNT] = 10
    min_examples_per_client: Annotated[int, COUNT] = 32

    def __post_init__(self) -> None:
        in_range("partition", self)
        for key in ("min_examples_per_label", "min_examples_per_client"):
            if self.max_examples_per_client is not None and getattr(self, key) > self.max_examples_per_client:
                raise InputError(
                    f"partition.max_examples_per_client={self.max_examples_per_client}: below "
                    f"partition.{key}={getattr(self, key)}, so no client would be kept"
                )

    def check(self, federation: Federation) -> None:
        """Refuse what cannot work whatever the data (paper: the responsible client is one among several)."""
        if federation.clients < 2:
            raise InputError("federation.clients=1: give 2 or more, there is nobody to tell apart")


@dataclass(frozen=True)
class Dirichlet(Limits):
    """Each label's shares over the clients are drawn from a Dirichlet distribution (Yurochkin et al. 2019)."""

    alpha: Annotated[float, Range(0, 1e6, open_least=True)] = 0.3
    min_partition_size: Annotated[int, Range(0, COUNT.most)] = 0
    self_balancing: bool = True

    def partitioner(self, labels: np.ndarray, clients: int, seed: int) -> Partitioner:
        """See `Partition`."""
        if self.min_partition_size * clients > len(labels):
            raise InputError(
                f"partition.min_partition_size={self.min_partition_size}: {clients} clients would need "
                f"{self.min_partition_size * clients:,} examples, there are {len(labels):,}: "
                f"at most {len(labels) // clients}"
            )
        return flwr_datasets.partitioner.DirichletPartitioner(
            num_partitions=clients,
            partition_by="label",
            alpha=float(self.alpha),
            min_partition_size=self.min_partition_size,
            self_balancing=self.self_balancing,
            seed=seed,
        )


@dataclass(frozen=True)
class Pathological(Limits):
    """Each client holds `classes_per_client` labels, client `k` those from number `k` on (McMahan et al. 2017)."""

    classes_per_client: Annotated[int, Range(1, 100_000)] = 2

    def partitioner(self, labels: np.ndarray, clients: int, seed: int) -> Partitioner:
        """See `Partition`."""
        classes = len(set(labels.tolist()))
        if self.classes_per_client > classes:
            raise InputError(
                f"partition.classes_per_client={self.classes_per_client}: the training set has {classes} classes"
            )
        return flwr_datasets.partitioner.PathologicalPartitioner(
            num_partitions=clients,
            partition_by="label",
            num_classes_per_partition=self.classes_per_client,
            class_assignment_mode="deterministic",
            seed=seed,
        )


@dataclass(frozen=True)
class ByDomain(Limits):
    """Client `k` holds domain (label) `k` alone, of `D` domains number `k mod D`: further clients share them evenly."""

    def partitioner(self, labels: np.ndarray, clients: int, seed: int) -> Partitioner:
        """See `Partition`."""
        domains = len(set(labels.tolist()))
        if clients < domains:
            raise InputError(
                f"federation.clients={clients}: partition=by_domain has a client for each of {domains} domains at "
                f"least: federation.clients={domains}, or partition=iid"
            )
        return flwr_datasets.partitioner.PathologicalPartitioner(
            num_partitions=clients,
            partition_by="label",
            num_classes_per_partition=1,
            class_assignment_mode="deterministic",
            seed=seed,
        )


@dataclass(frozen=True)
class Shard(Limits):
    """Examples sorted by label, cut into equal shards, `shards_per_client` of them to each client at random."""

    shards_per_client: Annotated[int, COUNT] = 2

    def partitioner(self, labels: np.ndarray, clients: int, seed: int) -> Partitioner:
        """See `Partition`."""
        if self.shards_per_client * clients > len(labels):
            raise InputError(
                f"partition.shards_per_client={self.shards_per_client}: {clients} clients would need "
                f"{self.shards_per_client * clients:,} examples, there are {len(labels):,}"
            )
        return flwr_datasets.partitioner.ShardPartitioner(
            num_partitions=clients,
            partition_by="label",
            num_shards_per_partition=self.shards_per_client,
            seed=seed,
        )


@dataclass(frozen=True)
class Iid(Limits):
    """Equal shares of one random order."""

    def partitioner(self, labels: np.ndarray, clients: int, seed: int) -> Partitioner:
        """See `Partition`."""
        return flwr_datasets.partitioner.IidPartitioner(num_partitions=clients)


def deal(partition: Partition, labels: np.ndarray, clients: int, seed: int) -> tuple[Share, ...]:
    """Return every client's share of the training examples, before caps and drops.

    The examples are shuffled by `seed` first: IID partitions are contiguous and unseeded otherwise.

    Raises:
        InputError: the training set does not allow this partition; the message says what to change.
    """
    if clients > len(labels):
        raise InputError(f"federation.clients={clients}: more than the {len(labels):,} training examples")
    with put_off("flwr_datasets.visualization"):  # it imports plotting libraries
        partitioner = partition.partitioner(labels, clients, seed)
    order = np.random.default_rng([seed, 0]).permutation(len(labels))
    # Labels and positions only: partitioners copy what they are given, and sort it.
    partitioner.dataset = datasets.Dataset.from_dict({"label": labels[order], "index": order})
    name = type(partition).__name__.lower()
    try:
        # A share of 0 among clients of which all others are full divides by zero, and would go on with nonsense.
        with warnings.catch_warnings(), np.errstate(divide="raise", invalid="raise"):
            warnings.simplefilter("ignore")
            parts = [partitioner.load_partition(client) for client in range(clients)]
    except (ValueError, FloatingPointError, ZeroDivisionError) as error:
        if isinstance(partition, Dirichlet):
            advice = f"raise partition.alpha={partition.alpha}" + (
                f" or lower partition.min_partition_size={partition.min_partition_size}"
                if partition.min_partition_size
                else ", or partition.self_balancing=false"
            )
        else:
            advice = f"lower federation.clients={clients} or change the settings of partition={name}"
        reason = "" if isinstance(partition, Dirichlet) else f" ({str(error).partition('. ')[0]})"
        raise InputError(
            f"partition={name}: {clients} clients cannot share the {len(labels):,} examples this way{reason}: {advice}"
        ) from None
    shares = []
    for client, part in enumerate(parts):
        # As a whole: a column on its own is read row by row. (An empty one comes back as floats.)
        indices = part.with_format("numpy")[:]["index"].astype(np.int64)
        shares.append(Share(client, indices, labels[indices]))
    return tuple(shares)


def limit(shares: Sequence[Share], partition: Partition) -> tuple[Share, ...]:
    """Cap every share, then drop from each client the labels that it holds too rarely."""
    limited = []
    for share in shares:
        capped = share.only(np.arange(len(share.labels))[: partition.max_examples_per_client])
        values, counts = np.unique(capped.labels, return_counts=True)
        limited.append(capped.only(np.isin(capped.labels, values[counts >= partition.min_examples_per_label])))
    return tuple(limited)


def drop_small(shares: Sequence[Share], partition: Partition) -> tuple[tuple[Share, ...], tuple[tuple[int, int], ...]]:
    """Divide clients into those with enough examples and (client, examples) of the others."""
    kept = tuple(share for share in shares if len(share.labels) >= partition.min_examples_per_client)
    numbers = {share.client for share in kept}
    return kept, tuple((share.client, len(share.labels)) for share in shares if share.client not in numbers)


def require_enough(
    kept: Sequence[Share], dropped: Sequence[tuple[int, int]], partition: Partition, per_round: int | None
) -> None:
    """Raise InputError where fewer than two clients are left, or fewer than train in a round."""
    total = len(kept) + len(dropped)
    small = (
        f"{len(kept)} of {total} clients kept partition.min_examples_per_client={partition.min_examples_per_client} "
        f"or more examples of labels with {partition.min_examples_per_label} or more"
    )
    if len(kept) < 2:
        most = max((examples for _, examples in dropped), default=0)
        alpha = ", raise partition.alpha" if isinstance(partition, Dirichlet) else ""
        raise InputError(
            f"only {small} (the largest dropped has {most}): lower partition.min_examples_per_client, "
            f"partition.min_examples_per_label or federation.clients{alpha}"
        )
    if per_round is not None and per_round > len(kept):
        raise InputError(
            f"federation.clients_per_round={per_round}: only {small}: at most {len(kept)}, or null for all of them"
        )
