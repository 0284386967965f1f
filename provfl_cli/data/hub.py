"""Datasets of the Hugging Face hub, or of its cache on this machine where the hub cannot be reached."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub

from ..config.schema import Dataset
from ..errors import InputError
from ..imports import later
from . import folder
from .network import hub_endpoint, reachable
from .split import Split
from .splits import from_table
from .tables import of_arrow

if TYPE_CHECKING:
    import datasets
else:
    datasets = later("datasets")

COMMIT = re.compile(r"[/\\]([0-9a-f]{40})[/\\]")  # the folder of the library's cache that a dataset lies in


def read(dataset: Dataset) -> tuple[dict[str, Split], str]:
    """Read the splits of `dataset.hub_id` at `dataset.revision`; return them and the revision that was loaded.

    Raises:
        InputError: the hub cannot be reached and nothing is cached (within seconds), or it has no such dataset.
    """
    endpoint = hub_endpoint()
    online = not datasets.config.HF_HUB_OFFLINE and reachable(endpoint)
    with _offline(not online):
        try:
            loaded = datasets.load_dataset(dataset.hub_id, dataset.subset, revision=dataset.revision)
        except datasets.exceptions.DatasetNotFoundError:
            raise InputError(
                f"dataset.hub_id={dataset.hub_id}: no such dataset, or no revision {dataset.revision}, on {endpoint}"
            ) from None
        except Exception as error:  # the library raises its own, its HTTP client's and plain ValueErrors
            snapshot = _snapshot(dataset)
            if snapshot is not None:
                return folder.read(snapshot, dataset), snapshot.name
            reason = f"fails ({str(error).strip().partition(chr(10))[0]})" if online else "cannot be reached"
            raise InputError(_ways_out(dataset, f"{endpoint} {reason}")) from error
    splits = {
        str(name): from_table(
            # The table holds pictures as struct of bytes and path; the schema's metadata name the classes.
            of_arrow(part.data.table.replace_schema_metadata(part.features.arrow_schema.metadata), dataset),
            f"{dataset.hub_id} {name}",
            None,
            dataset,
            unlabelled=str(name) != "train",
        )
        for name, part in loaded.items()
    }
    commit = COMMIT.search(" ".join(file["filename"] for part in loaded.values() for file in part.cache_files))
    return splits, commit[1] if commit else dataset.revision


def _snapshot(dataset: Dataset) -> Path | None:
    """The folder of the dataset's files in the hub's cache, where they were downloaded before."""
    try:
        return Path(
            huggingface_hub.snapshot_download(
                str(dataset.hub_id), repo_type="dataset", revision=dataset.revision, local_files_only=True
            )
        )
    except Exception:  # not cached, in one of several ways
        return None


@contextmanager
def _offline(offline: bool) -> Iterator[None]:
    """Let the libraries read their caches only, for as long as this lasts: they would retry for half a minute."""
    before = huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if offline:
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _ways_out(dataset: Dataset, failure: str) -> str:
    """What to do without the hub."""
    text = dataset.input != "image"
    kinds = {"text": "dataset=languages", "dialogue": "dataset=phrases"}
    others = f"{kinds.get(dataset.input, 'dataset=mnist or dataset=digits')} (embedded)"
    return (
        f"{failure} and {dataset.hub_id} is not in the Hugging Face cache: "
        f"dataset.path=DIR (its parquet files{'' if text else ' or pictures'}), HF_HOME=DIR (a filled cache), "
        f"or {'dataset.source=embedded' if dataset.embedded else others}"
    )
