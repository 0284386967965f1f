"""How pictures or texts become tensors, decided once for clients and test set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..config import schema
from ..errors import InputError
from .checkpoint import TOKENIZER_FILES, Published, has_tokenizer
from .dialogue import Dialogue
from .examples import Examples, stratified
from .federated import Dialogues, Encode, Form, Pictures, Texts
from .likeness import all_alike, look_of
from .picture_facts import PictureFacts
from .pixel_scale import Reading
from .splits import HOLD_OUT_SEED
from .template import Codec, Template, plain_template
from .tensors import to_tensor
from .tokenizer import CLS, SEP, chat_of, from_json, own, trained, vocabulary_and_padding


@dataclass(frozen=True)
class Encoding:
    """`encode` turns inputs, as `Examples` holds them, into tensors; `form` is what a model has to know of these.

    `tokenizer` is the JSON of a text's tokenizer, `template` what stands around prompts and responses; `lines` are
    sentences for the user; `pictures` is what is known of pictures.
    """

    encode: Encode
    form: Form
    tokenizer: str | None = None
    lines: tuple[str, ...] = ()
    pictures: PictureFacts | None = None
    template: Template | None = None


def picture_encoding(examples: Examples, dataset: schema.Dataset) -> Encoding:
    """Pixels scaled and normalised by the dataset's mean and deviation."""
    _, size, _, channels = examples.train_inputs.shape
    look = look_of(examples.train_inputs, examples.shapes)
    lines = (*examples.picture_lines, *all_alike(look))
    facts = PictureFacts(examples.reading or Reading(), look, lines)
    encode = partial(to_tensor, mean=dataset.mean, std=dataset.std)
    return Encoding(encode, Pictures(channels, size), lines=lines, pictures=facts)


def dialogue_encoding(
    model: schema.Model, dataset: schema.Dataset, examples: Examples, published: Published
) -> tuple[Encoding, Examples]:
    """Prompts and responses as tokens, as `text_encoding` has it.

    With a checkpoint's own tokenizer goes its chat template, where it has one. A tokenizer that is trained here is
    trained on the public part of the data, else on examples that are set aside.

    Raises:
        InputError: as of `text_encoding`.
    """
    folder, lines, kept = _own_folder(model, published)
    if folder is not None:
        tokenizer = own(folder, dataset.max_tokens)
        template, said = chat_of(folder)
        lines += [f"tokenizer: the one of {model.checkpoint}, {said}"]
    else:
        public, whence = examples.public, "the public part of the data"
        if public is None:
            public, examples = _set_aside(examples, dataset.public_examples)
            whence = f"{len(public):,} of the training examples (dataset.public_examples), which no client gets"
        tokenizer = trained(list(map(_whole_text, public)), dataset.vocabulary, dataset.max_tokens)
        template = plain_template(CLS, SEP)
        lines += [f"tokenizer: byte-level BPE, trained on {whence}", *kept]
    codec = Codec(tokenizer, template, dataset.max_tokens)
    vocabulary, padding = vocabulary_and_padding(tokenizer)
    weights = str(published.folder) if published.weights else None
    form = Dialogues(vocabulary, dataset.max_tokens, padding, codec.end, weights)
    return Encoding(codec.encode, form, tokenizer, tuple(lines), template=template), examples


def _whole_text(dialogue: Dialogue) -> str:
    return " ".join([*(text for _, text in dialogue.turns), dialogue.response])


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
    folder, lines, kept = _own_folder(model, published)
    if folder is not None:
        tokenizer = own(folder, dataset.max_tokens)
        lines.append(f"tokenizer: the one of {model.checkpoint}")
    else:
        public, examples = _set_aside(examples, dataset.public_examples)
        tokenizer = trained(public.tolist(), dataset.vocabulary, dataset.max_tokens)
        lines += [
            f"tokenizer: byte-level BPE, trained on {len(public):,} of the training texts (dataset.public_examples), "
            "which no client gets",
            *kept,
        ]
    vocabulary, padding = vocabulary_and_padding(tokenizer)
    weights = str(published.folder) if published.weights else None
    form = Texts(vocabulary, dataset.max_tokens, padding, weights)
    return Encoding(from_json(tokenizer), form, tokenizer, tuple(lines)), examples


def _own_folder(model: schema.Model, published: Published) -> tuple[Path | None, list[str], list[str]]:
    """The folder whose tokenizer is taken, None where one is trained; lines to begin with, and those for that case."""
    folder, lines = published.folder, [] if published.line is None else [published.line]
    there = folder is not None and has_tokenizer(folder)
    if published.weights and not there and model.tokenizer != "trained":
        raise InputError(
            f"model.checkpoint={model.checkpoint}: weights without their tokenizer (none of "
            f"{', '.join(TOKENIZER_FILES)} in {folder}): add it, or model.pretrained=false"
        )
    if there and model.tokenizer != "trained":
        return folder, lines, []
    other = ["the published weights know the tokens of another tokenizer (model.tokenizer=trained)"]
    return None, lines, other if published.weights else []


def _set_aside(examples: Examples, count: int) -> tuple[np.ndarray, Examples]:
    """The public sample, inputs alone, and the examples without it."""
    total = len(examples.train_labels)
    if 2 * count > total:
        raise InputError(
            f"dataset.public_examples={count}: more than half of the {total:,} training texts: give fewer, "
            f"such as dataset.public_examples={max(total // 10, 1)}"
        )
    chosen = stratified(examples.train_labels, count, np.random.default_rng(HOLD_OUT_SEED))
    kept = np.setdiff1d(np.arange(total), chosen)
    rest = replace(examples, train_inputs=examples.train_inputs[kept], train_labels=examples.train_labels[kept])
    return examples.train_inputs[chosen], rest
