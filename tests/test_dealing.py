"""Shares that are kept in the training cache: the same as dealt anew, or dealt again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from provfl_cli.config.share import Share
from provfl_cli.data import dealing
from provfl_cli.data.partition import Dirichlet, Iid, Limits, Shard, deal
from provfl_cli.errors import InputError

LABELS = np.random.default_rng(0).integers(0, 5, 300)


def same(left: tuple[Share, ...], right: tuple[Share, ...]) -> bool:
    return len(left) == len(right) and all(
        a.client == b.client
        and np.array_equal(a.indices, b.indices)
        and np.array_equal(a.labels, b.labels)
        and a.indices.dtype == b.indices.dtype
        and a.indices.flags.writeable == b.indices.flags.writeable
        for a, b in zip(left, right, strict=True)
    )


@pytest.fixture
def dealings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was dealt anew."""
    made: list[Any] = []

    def counted(*arguments: Any) -> tuple[Share, ...]:
        made.append(arguments)
        return deal(*arguments)

    monkeypatch.setattr(dealing, "deal", counted)
    return made


@pytest.mark.parametrize("partition", [Dirichlet(), Iid(), Shard()])
def test_what_is_kept_is_what_was_dealt(partition: Any, tmp_path: Path, dealings: list[Any]) -> None:
    expected = deal(partition, LABELS, 6, 1)
    for _ in range(3):
        assert same(dealing.dealt(partition, LABELS, 6, 1, tmp_path), expected)
    assert len(dealings) == 1
    assert len([*(tmp_path / "partitions").iterdir()]) == 1


def test_whatever_matters_is_dealt_anew(tmp_path: Path, dealings: list[Any]) -> None:
    others = LABELS.copy()
    others[0] = (others[0] + 1) % 5
    cases = [
        (Iid(), LABELS, 6, 1), (Shard(), LABELS, 6, 1), (Shard(shards_per_client=3), LABELS, 6, 1),
        (Iid(), others, 6, 1), (Iid(), LABELS, 7, 1), (Iid(), LABELS, 6, 2), (Dirichlet(), LABELS, 6, 1),
        (Dirichlet(alpha=1.0), LABELS, 6, 1), (Iid(), LABELS.astype(np.int32), 6, 1),
    ]  # fmt: skip
    for case in cases:
        assert same(dealing.dealt(*case, tmp_path), deal(*case))
    assert len(dealings) == len(cases)
    dealing.dealt(Iid(min_examples_per_label=1), LABELS, 6, 1, tmp_path)
    assert len(dealings) == len(cases), "limits are applied to what was dealt"


def test_a_client_without_examples_is_kept_as_one(tmp_path: Path) -> None:
    partition = Dirichlet(alpha=0.01, self_balancing=False)
    expected = deal(partition, LABELS, 12, 0)
    assert min(len(share.labels) for share in expected) == 0
    for _ in range(2):
        assert same(dealing.dealt(partition, LABELS, 12, 0, tmp_path), expected)


@pytest.mark.parametrize("harm", ["changed", "cut", "empty", "text", "another"])
def test_what_is_damaged_is_dealt_again(harm: str, tmp_path: Path, dealings: list[Any]) -> None:
    expected = dealing.dealt(Iid(), LABELS, 6, 1, tmp_path)
    (file,) = (tmp_path / "partitions").iterdir()
    content = file.read_bytes()
    at = content.index(np.ascontiguousarray(expected[2].indices).tobytes())
    changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    if harm == "another":
        dealing.dealt(Iid(), LABELS, 7, 1, tmp_path)
        (other,) = (each for each in (tmp_path / "partitions").iterdir() if each != file)
        changed = other.read_bytes()
    harmed = {"cut": content[:-9], "empty": b"", "text": b"not a file of tensors"}
    file.write_bytes(harmed.get(harm, changed))
    before = len(dealings)
    assert same(dealing.dealt(Iid(), LABELS, 6, 1, tmp_path), expected)
    assert len(dealings) == before + 1
    assert file.read_bytes() == content


@dataclass(frozen=True)
class Own(Limits):
    """A partition of the user's own, whose code may change."""

    def partitioner(self, labels: np.ndarray, clients: int, seed: int) -> Any:
        """See `Partition`."""
        return Iid().partitioner(labels, clients, seed)


def test_a_partition_of_the_users_own_is_never_kept(tmp_path: Path, dealings: list[Any]) -> None:
    for _ in range(2):
        dealing.dealt(Own(), LABELS, 6, 1, tmp_path)
    assert len(dealings) == 2
    assert not [*tmp_path.iterdir()]


def test_a_cache_that_cannot_be_written_to_is_no_matter_here(tmp_path: Path) -> None:
    (tmp_path / "partitions").write_text("in the way")
    assert same(dealing.dealt(Iid(), LABELS, 6, 1, tmp_path), deal(Iid(), LABELS, 6, 1))


def test_no_cache_is_made_for_it(tmp_path: Path) -> None:
    dealing.dealt(Iid(), LABELS, 6, 1, tmp_path / "cache")
    assert not [*tmp_path.iterdir()]


def test_what_cannot_be_dealt_is_not_kept(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="more than the 300"):
            dealing.dealt(Iid(), LABELS, 301, 1, tmp_path)


def test_what_is_kept_needs_no_library_that_deals(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; from provfl_cli.data.dealing import dealt; "
        "from provfl_cli.data.partition import Dirichlet; "
        f"dealt(Dirichlet(), np.arange(200) % 4, 5, 0, Path({str(tmp_path)!r})); "
        "print(sorted({'datasets', 'flwr_datasets', 'torch'} & sys.modules.keys()))"
    )
    outputs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(2)]
    assert [each.returncode for each in outputs] == [0, 0], outputs[-1].stderr
    assert "datasets" in outputs[0].stdout
    assert outputs[1].stdout.strip() == "[]"
