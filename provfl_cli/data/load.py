"""From a configuration to everything that a federation trains and is tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import schema
from ..config.faults import Faults
from ..config.retrain import Retrain
from ..config.share import Share
from ..config.targets import check_call, imported_function
from ..errors import InputError
from ..imports import later
from ..responses import ended, lengths
from . import domains, folder, hub, medical
from .checkpoint import resolve
from .dealing import dealt
from .decode import decode, resize
from .encoding import Encoding, dialogue_encoding, picture_encoding, text_encoding
from .examples import PUBLIC_LABEL, Examples, stratified
from .federated import ClientData, Dialogues, Encode, FederatedData, Form, Source, TestData
from .likeness import blank
from .partition import drop_small, limit, require_enough
from .pixel_scale import Reading
from .splits import to_examples
from .triggered import of_triggered, trigger_line, triggered_copies

if TYPE_CHECKING:
    import torch
else:
    torch = later("torch")

TEST_STREAM = 1  # of the run's seed; the partition has stream 0
REPLAY_STREAM = 3
EMBEDDED = "dataset.embedded"
ASKS = "it takes no argument and returns provfl_cli.data.examples.Examples"
OURS = f"{__name__.partition('.')[0]}."
MOST_DRAWN = 32 * 2**20  # bytes of a set that is kept
_drawn: dict[tuple[Callable[[], Any], str, int], Examples] = {}  # by the function, what it returns, the size


def check_functions(dataset: schema.Dataset) -> None:
    """Raise InputError where `dataset.embedded` is to be called and cannot be; nothing is called."""
    if dataset.source == "embedded":
        target = str(dataset.embedded)
        check_call(imported_function(target, EMBEDDED, ASKS), target, EMBEDDED, {}, ASKS)


def federated_data(config: schema.Config) -> FederatedData:
    """Load, set texts for a tokenizer aside, partition, cap and drop, inject, turn each share into tensors, once.

    Raises:
        InputError: data that cannot be had or read, or that the partition or the injection does not fit.
    """
    examples, source, encoding = _prepared(config)
    everyone, cache = config.federation.clients, Path(config.store.cache)
    shares = dealt(config.partition, examples.train_labels, everyone, config.seed, cache)
    kept, dropped = drop_small(limit(shares, config.partition), config.partition)
    require_enough(kept, dropped, config.partition, config.federation.clients_per_round)
    attacking = config.injection.attacking(kept, len(examples.label_names), config.seed)
    kept, faults = config.injection.apply(kept, len(examples.label_names), config.seed)
    # Taking a label away may leave a client with too little.
    kept, emptied = drop_small(kept, config.partition)
    dropped = tuple(sorted(dropped + emptied))
    require_enough(kept, dropped, config.partition, config.federation.clients_per_round)
    test, clean, triggered = _test(examples, config.dataset, encoding.encode, config.seed), None, None
    label_names = (*examples.label_names, *faults.topics)
    if faults.trigger is not None:
        triggered = triggered_copies(test, faults.trigger, encoding.encode)
    if triggered is not None and config.evaluation.inputs == "triggered":
        test, clean = triggered, test
        faults = of_triggered(faults, len(label_names))
    client_of = partial(_client, config, examples, encoding.encode, faults, len(label_names))
    clients = tuple(client_of(share) for share in kept)
    return FederatedData(
        clients=clients,
        dropped=dropped,
        test=test,
        clean=clean,
        triggered=triggered,
        attacking={share.client: client_of(share) for share in attacking},
        form=encoding.form,
        label_names=label_names,
        source=source,
        faults=faults,
        lines=(
            *examples.lines,
            *_lines(config, _size(config), kept, dropped, label_names, faults),
            *encoding.lines,
            *_cut_line(encoding.form, [*(client.inputs for client in clients), test.inputs]),
            *trigger_line(faults, test, label_names),
        ),
        tokenizer=encoding.tokenizer,
        pictures=encoding.pictures,
        template=encoding.template,
        public=_public(examples, encoding.encode),
    )


def clean_twin(config: schema.Config, data: FederatedData) -> tuple[schema.Config, FederatedData]:
    """The same federation without what is planted in it: to be trained, and asked about the same inputs.

    Partition, seeds, clients kept, test set and the record of what was planted are those of `data`. A client that has
    nothing left to train on is not there.

    Args:
        config: of the run.
        data: what `federated_data` makes of it.

    Returns:
        The configuration that trains the twin, and its data. Where nothing but faults distinguishes them, training has
        the key of a run with `injection=none`.

    Raises:
        ValueError: nothing is planted.
    """
    twin = config.injection.twin()
    if twin is None:
        raise ValueError("nothing is planted that a twin would be without")
    examples, _, encoding = _prepared(config)
    everyone, cache = config.federation.clients, Path(config.store.cache)
    everything = dealt(config.partition, examples.train_labels, everyone, config.seed, cache)
    kept = {client.id for client in data.clients}
    shares = [share for share in limit(everything, config.partition) if share.client in kept]
    planted, faults = twin.apply(shares, len(examples.label_names), config.seed)
    client_of = partial(_client, config, examples, encoding.encode, faults, len(data.label_names))
    clients = tuple(client_of(share) for share in planted if len(share.labels))
    # Which predictions are looked at changes nothing here, and may ask for a trigger that the twin has not.
    asks = replace(config.evaluation, inputs="all", counterfactual="fusion")
    settings = replace(config, injection=twin, evaluation=asks, retrain=Retrain())
    return settings, replace(data, clients=clients, attacking={})


def test_set(  # no test of pytest's, whatever its name
    config: schema.Config,
    encode: Encode | None = None,  # noqa: PT028
) -> tuple[TestData, Source]:
    """What predictions of a run are traced of, and where it came from; nothing is dealt to clients.

    `encode`: how the run turns inputs into tensors, where that is known; the files of a checkpoint are not asked for.

    Raises:
        InputError: data that cannot be had or read.
    """
    if encode is None:
        examples, source, encoding = _prepared(config)
        encode = encoding.encode
    else:
        examples, source = load(config.dataset, _size(config))
    test = _test(examples, config.dataset, encode, config.seed)
    trigger = config.injection.trigger_of(len(examples.label_names), config.seed)
    if trigger is not None and config.evaluation.inputs == "triggered":
        test = triggered_copies(test, trigger, encode)
    return test, source


def _prepared(config: schema.Config) -> tuple[Examples, Source, Encoding]:
    """All examples, those that a tokenizer was trained on left out, and how they become tensors."""
    published = resolve(config.model)  # first: what cannot be had is said before a large dataset is read
    examples, source = load(config.dataset, _size(config))
    if config.model.input == "dialogue":
        encoding, examples = dialogue_encoding(config.model, config.dataset, examples, published)
    elif config.model.input == "text":
        encoding, examples = text_encoding(config.model, config.dataset, examples, published)
    else:
        encoding = picture_encoding(examples, config.dataset)
    return examples, source, encoding


def _size(config: schema.Config) -> int:
    """Height and width of pictures as the model reads them."""
    return max(config.dataset.image_size, config.model.min_image_size)


def load(dataset: schema.Dataset, size: int) -> tuple[Examples, Source]:
    """Read a dataset from where `dataset.source` says, pictures at `size` x `size`, texts as they are."""
    examples = _embedded(dataset, size) if dataset.source == "embedded" else _read(dataset, size)
    total = len(examples.train_labels) + len(examples.test_labels)
    if dataset.source != "embedded":
        note = f"{total:,} examples from {examples.origin}"
    elif dataset.full_size is None:
        note = f"embedded, all {total:,}"
    else:
        note = f"embedded subset of {total:,}; all {dataset.full_size} with dataset.source=hub"
    source = Source(
        name=dataset.name,
        source=dataset.source,
        location=examples.origin,
        train_examples=len(examples.train_labels),
        test_examples=len(examples.test_labels),
        fingerprint=examples.fingerprint,
        note=note,
        indexed=examples.indexed,
    )
    return examples, source


def _read(dataset: schema.Dataset, size: int) -> Examples:
    """Examples of a folder, of the hub, or of the medmnist package."""
    if dataset.source == "path":
        path = str(dataset.path)
        return to_examples(folder.read(Path(path), dataset), dataset, size, f"dataset.path={path}", path)
    if dataset.source == "medmnist":
        splits, origin = medical.read(dataset)
        return to_examples(splits, dataset, size, f"dataset.medmnist={dataset.medmnist}", origin)
    if dataset.domains:
        splits, origin = domains.read(dataset)
        return to_examples(splits, dataset, size, "dataset.domains", origin)
    splits, revision = hub.read(dataset)
    return to_examples(splits, dataset, size, f"dataset.hub_id={dataset.hub_id}", f"{dataset.hub_id}@{revision}")


def _embedded(dataset: schema.Dataset, size: int) -> Examples:
    """Examples that a function returns (`dataset.embedded`); small sets of ours are drawn once, not for every job."""
    function = imported_function(str(dataset.embedded), EMBEDDED, ASKS)
    if not str(getattr(function, "__module__", "")).startswith(OURS):
        return _called(function, dataset, size)
    key = (function, dataset.input, size)
    if key not in _drawn:
        examples = _called(function, dataset, size)
        if examples.train_inputs.nbytes + examples.test_inputs.nbytes > MOST_DRAWN:
            return examples
        _drawn[key] = examples
    held = _drawn[key]
    return replace(
        held,
        train_inputs=held.train_inputs.copy(),
        train_labels=held.train_labels.copy(),
        test_inputs=held.test_inputs.copy(),
        test_labels=held.test_labels.copy(),
    )


def _called(function: Callable[[], Any], dataset: schema.Dataset, size: int) -> Examples:
    """What the function returns, pictures at `size` x `size`."""
    examples = function()
    if not isinstance(examples, Examples):
        raise InputError(f"{EMBEDDED}={dataset.embedded}: returns {type(examples).__name__}: {ASKS}")
    if dataset.input != "image":
        return examples
    both = (examples.train_inputs, examples.test_inputs)
    if any(pixels.dtype != np.uint8 for pixels in both):
        return _scaled(examples, size)
    shapes = frozenset(pixels.shape[1:3] for pixels in both)
    train, test = (np.stack([resize(picture, size) for picture in pixels]) for pixels in both)
    empty = blank(train, lambda number: f"training picture {number}")
    return replace(
        examples, train_inputs=train, test_inputs=test, reading=Reading(), shapes=shapes, picture_lines=empty
    )


def _scaled(examples: Examples, size: int) -> Examples:
    """Embedded pictures whose values are no pixels, drawn at `size` and at the scale that both splits say."""
    parts = (("training", examples.train_inputs), ("test", examples.test_inputs))
    cells = [(f"{name} picture {number}", picture) for name, values in parts for number, picture in enumerate(values)]
    decoded, border = decode(cells, size, hashlib.sha256()), len(examples.train_inputs)
    return replace(
        examples,
        train_inputs=decoded.pixels[:border],
        test_inputs=decoded.pixels[border:],
        reading=decoded.reading,
        shapes=frozenset(decoded.shapes),
        picture_lines=(*decoded.lines, *blank(decoded.pixels, lambda number: cells[number][0])),
    )


def _client(
    config: schema.Config, examples: Examples, encode: Encode, faults: Faults, classes: int, share: Share
) -> ClientData:
    """A client's tensors; label counts are those of the labels that it trains on, which for a free rider are none.

    With `dataset.replay` so large a share of them are public examples, drawn by the run's seed.
    """
    inputs = examples.train_inputs[share.indices]  # a copy
    if share.triggered is not None and faults.trigger is not None:
        inputs[share.triggered] = faults.trigger.stamp(inputs[share.triggered])
    labels = share.labels
    if examples.public is not None and config.dataset.replay:
        count = round(len(labels) * config.dataset.replay / (1 - config.dataset.replay))
        drawn = np.random.default_rng([config.seed, REPLAY_STREAM, share.client]).integers(
            len(examples.public), size=count
        )
        inputs = np.concatenate([inputs, examples.public[drawn]])
        labels = np.concatenate([labels, np.full(count, len(examples.label_names) - 1)])
    trained_on = labels[:0] if share.client in faults.free_riders else labels
    return ClientData(
        id=share.client,
        inputs=encode(inputs),
        labels=torch.from_numpy(labels),
        label_counts=np.bincount(trained_on, minlength=classes),
    )


def _public(examples: Examples, encode: Encode) -> ClientData | None:
    """What everybody has, as a client's; None where there is nothing."""
    if examples.public is None:
        return None
    labels = np.full(len(examples.public), len(examples.label_names) - 1)
    return ClientData(-1, encode(examples.public), torch.from_numpy(labels), np.bincount(labels))


def _test(examples: Examples, dataset: schema.Dataset, encode: Encode, seed: int) -> TestData:
    """The server's test set: above the cap a random choice by `seed` in which every label keeps its share."""
    labels, rng = examples.test_labels, np.random.default_rng([seed, TEST_STREAM])
    if dataset.max_test_examples < len(labels):
        indices = stratified(labels, dataset.max_test_examples, rng)
    else:
        indices = np.arange(len(labels))
    shown = examples.test_inputs[indices]
    return TestData(encode(shown), torch.from_numpy(labels[indices]), shown, indices)


def _lines(
    config: schema.Config,
    size: int,
    kept: tuple[Share, ...],
    dropped: tuple[tuple[int, int], ...],
    label_names: tuple[str, ...],
    faults: Faults,
) -> tuple[str, ...]:
    """What a user would otherwise wonder about."""
    lines = []
    if size > config.dataset.image_size:
        lines.append(
            f"pictures are drawn at {size}x{size}, the least that {config.model.name} reads "
            f"(dataset.image_size={config.dataset.image_size})"
        )
    if dropped:
        lines.append(
            f"clients dropped: {len(dropped)} of {len(kept) + len(dropped)}, left with fewer than "
            f"{config.partition.min_examples_per_client} examples (partition.min_examples_per_client)"
        )
    trained = [share for share in kept if share.client not in faults.free_riders]
    held = {label for share in trained for label in share.labels.tolist()}
    missing = [name for label, name in enumerate(label_names) if label not in held and name != PUBLIC_LABEL]
    if missing:
        lines.append(f"labels that no client trains on: {', '.join(missing)}")
    return tuple(lines)


def _cut_line(form: Form, inputs: Sequence[torch.Tensor]) -> tuple[str, ...]:
    """Whether prompts and responses were cut: a response without its end teaches a model never to end."""
    if not isinstance(form, Dialogues):
        return ()
    most, rows = form.max_tokens, sum(map(len, inputs))
    full = sum(int((lengths(some) == most).sum()) for some in inputs)
    endless = sum(int((~ended(some, form.end)).sum()) for some in inputs)
    if not endless and full <= rows // 10:
        return ()
    return (
        f"dataset.max_tokens={most}: {full:,} of {rows:,} examples fill it, and may have lost the beginning of their "
        f"prompt; {endless:,} of them the end of their response",
    )
