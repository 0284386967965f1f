"""How pictures or texts become tensors, decided once for clients and test set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..config import schema
from ..errors import InputError
from .checkpoint import TOKENIZER_FILES, Published, has_tokenizer
from .examples import Examples, stratified
from .federated import Encode, Form, Pictures, Texts
from .likeness import all_alike, look_of
from .picture_facts import PictureFacts
from .pixel_scale import Reading
from .splits import HOLD_OUT_SEED
from .tensors import to_tensor
from .tokenizer import from_json, own, trained, vocabulary_and_padding

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Encoding:
    """`encode` turns inputs, as `Examples` holds them, into tensors; `form` is what a model has to know of these.

    `tokenizer` is the JSON of a text's tokenizer; `lines` are sentences for the user; `pictures` is what is known of
    pictures.
    """

    encode: Encode
    form: Form
    tokenizer: str | None = None
    lines: tuple[str, ...] = ()
    pictures: PictureFacts | None = None


def picture_encoding(examples: Examples, dataset: schema.Dataset) -> Encoding:
    """Pixels scaled and normalised by the dataset's mean and deviation."""
    _, size, _, channels = examples.train_inputs.shape
    look = look_of(examples.train_inputs, examples.shapes)
    lines = (*examples.picture_lines, *all_alike(look))
    facts = PictureFacts(examples.reading or Reading(), look, lines)
    encode = partial(to_tensor, mean=dataset.mean, std=dataset.std)
    return Encoding(encode, Pictures(channels, size), lines=lines, pictures=facts)


def text_encoding(
    model: schema.Model, dataset: schema.Dataset, examples: Examples, published: Published
) -> tuple[Encoding, Examples]:
    """Tokens by the tokenizer of the `published` files, or by one trained on some of the training texts.

    Returns the encoding, and the examples without the texts that the tokenizer was trained on.

    The tokenizer is the own one where `model.tokenizer` says so, or where it is auto and the checkpoint's files can be
    had. Else `dataset.public_examples` training texts are set aside, the same ones whatever the run's seed, every label
    in its share: they stand for the public sample that a federation would agree on, and no client gets them.

    Raises:
        InputError: weights without their tokenizer, a tokenizer that cannot be loaded, or a public sample that would
            take more than half of the training texts.
    """
    folder, lines = published.folder, [] if published.line is None else [published.line]
    there = folder is not None and has_tokenizer(folder)
    if published.weights and not there and model.tokenizer != "trained":
        raise InputError(
            f"model.checkpoint={model.checkpoint}: weights without their tokenizer (none of "
            f"{', '.join(TOKENIZER_FILES)} in {folder}): add it, or model.pretrained=false"
        )
    if folder is not None and there and model.tokenizer != "trained":
        tokenizer = own(folder, dataset.max_tokens)
        lines.append(f"tokenizer: the one of {model.checkpoint}")
    else:
        public, examples = _set_aside(examples, dataset.public_examples)
        tokenizer = trained(public, dataset.vocabulary, dataset.max_tokens)
        lines.append(
            f"tokenizer: byte-level BPE, trained on {len(public):,} of the training texts (dataset.public_examples), "
            "which no client gets"
        )
        if published.weights:
            lines.append("the published weights know the tokens of another tokenizer (model.tokenizer=trained)")
    vocabulary, padding = vocabulary_and_padding(tokenizer)
    weights = str(folder) if published.weights else None
    form = Texts(vocabulary, dataset.max_tokens, padding, weights)
    return Encoding(from_json(tokenizer), form, tokenizer, tuple(lines)), examples


def _set_aside(examples: Examples, count: int) -> tuple[list[str], Examples]:
    """The public sample, texts alone, and the examples without it."""
    total = len(examples.train_labels)
    if 2 * count > total:
        raise InputError(
            f"dataset.public_examples={count}: more than half of the {total:,} training texts: give fewer, "
            f"such as dataset.public_examples={max(total // 10, 1)}"
        )
    chosen = stratified(examples.train_labels, count, np.random.default_rng(HOLD_OUT_SEED))
    kept = np.setdiff1d(np.arange(total), chosen)
    rest = replace(examples, train_inputs=examples.train_inputs[kept], train_labels=examples.train_labels[kept])
    return examples.train_inputs[chosen].tolist(), rest
