"""Tokenizers: one that was published, or one trained here; and how texts become rows of tokens.

A tokenizer is handed on as the JSON of the `tokenizers` library. It holds the greatest length and the padding token
too, so that whoever has the JSON tokenizes the same (`from_json`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ..errors import InputError
from ..imports import later
from .federated import Encode
from .rust import panics_caught
from .template import Template, chat_template, plain_template

if TYPE_CHECKING:
    import torch
    import transformers
    from torch import Tensor
else:
    torch, transformers = later("torch"), later("transformers")

PAD, CLS, SEP = "<pad>", "<cls>", "<sep>"
CHUNK = 4096  # texts encoded at a time: the library's own records of a text take far more memory than its tokens


def trained(texts: Sequence[str], vocabulary: int, max_tokens: int) -> str:
    """Train a byte-level BPE on `texts`: every text can be encoded, and is got back by decoding.

    At most `vocabulary` tokens; few texts have fewer pairs to merge. `<pad>` is token 0. Every text begins with `<cls>`
    and ends with `<sep>`: models like BERT classify at the first token, those like GPT at the last one. Returns the
    tokenizer's JSON; the same texts give the same JSON.
    """
    _settle_threads()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, CLS, SEP],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}", special_tokens=[(token, tokenizer.token_to_id(token)) for token in (CLS, SEP)]
    )
    return _finished(tokenizer, PAD, max_tokens)


def own(folder: Path, max_tokens: int) -> str:
    """The tokenizer that was published in `folder`, as JSON.

    Its own padding token pads. Where it has none (GPT, GPT-2), `<pad>` is added as a new last token, so that the
    vocabulary is one larger than the published weights': the model gets one more row of embeddings, which is never
    attended to.

    Raises:
        InputError: no tokenizer there, or one that the `tokenizers` library does not run.
    """
    published = _published(folder)
    tokenizer = Tokenizer.from_str(published.backend_tokenizer.to_str())
    padding = published.pad_token
    if padding is None:
        padding = PAD
        tokenizer.add_special_tokens([PAD])
    return _finished(tokenizer, padding, max_tokens)


def chat_of(folder: Path) -> tuple[Template, str]:
    """What stands around prompts and responses for the tokenizer in `folder`, and the same in a few words.

    Its chat template where it has one that can be read; else the plain one, with its own tokens for begin and end.

    Raises:
        InputError: it knows no token for the end.
    """
    published = _published(folder)
    end = published.eos_token or published.sep_token
    if end is None:
        raise InputError(
            f"model.checkpoint={folder}: its tokenizer has no token that ends a text: model.tokenizer=trained "
            "model.pretrained=false, or another checkpoint"
        )
    chat = chat_template(published, str(end))
    if chat is not None:
        return chat, "with its chat template"
    why = "which has no chat template"
    if getattr(published, "chat_template", None):
        why = "whose chat template fails, or changes what is said: a blank stands between prompt and response instead"
    return plain_template(str(published.bos_token or ""), str(end)), why


def from_json(tokenizer: str) -> Encode:
    """The function that encodes texts as the tokenizer with this JSON does.

    It takes strings `[n]` and returns tokens int64 `[n, T]`: T is the length of the longest of them, cut at the
    tokenizer's greatest length; shorter ones are padded on the right. What looks like a special token in a text is
    text: a "<pad>" that somebody wrote does not pad. Both the loading and the encoding raise `TokenizerPanic` where
    the library gives up.
    """
    loaded, padding = _loaded(tokenizer)

    def encode(texts: np.ndarray) -> Tensor:
        _settle_threads()
        with panics_caught():
            rows = [
                row.ids
                for start in range(0, len(texts), CHUNK)
                for row in loaded.encode_batch_fast(list(texts[start : start + CHUNK]))
            ]
        tokens = np.full((len(rows), max(map(len, rows), default=1)), padding, dtype=np.int64)
        for number, row in enumerate(rows):
            tokens[number, : len(row)] = row
        return torch.from_numpy(tokens)

    return encode


def spans_of(tokenizer: str, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """The tokens of each text, and where in it each stands: its first character, and the one behind its last."""
    loaded, _ = _loaded(tokenizer)
    _settle_threads()
    with panics_caught():
        return [(row.ids, row.offsets) for row in loaded.encode_batch(list(texts))]


def vocabulary_and_padding(tokenizer: str) -> tuple[int, int]:
    """Of a tokenizer's JSON: the number of embeddings that its tokens need, and the padding token."""
    loaded, padding = _loaded(tokenizer)
    return max(loaded.get_vocab(with_added_tokens=True).values()) + 1, padding


def _published(folder: Path) -> Any:
    """The tokenizer of transformers in a folder; InputError where there is none with a backend of `tokenizers`."""
    _settle_threads()
    try:
        with panics_caught():
            published = transformers.AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            published.backend_tokenizer.to_str()
    except Exception as error:  # of files that are missing or broken, or of a tokenizer written in Python
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"model.checkpoint={folder}: its tokenizer cannot be loaded ({reason}): it needs a tokenizer.json, "
            "or model.tokenizer=trained model.pretrained=false"
        ) from None
    return published


def _finished(tokenizer: Tokenizer, padding: str, max_tokens: int) -> str:
    """The JSON, with length and padding in it."""
    number = tokenizer.token_to_id(padding)
    tokenizer.enable_truncation(max_length=max_tokens)
    tokenizer.enable_padding(direction="right", pad_id=number, pad_token=padding)
    return tokenizer.to_str()


def _loaded(tokenizer: str) -> tuple[Tokenizer, int]:
    """The library's tokenizer, which does not pad itself, and the padding token."""
    with panics_caught():
        loaded = Tokenizer.from_str(tokenizer)
    assert loaded.padding is not None  # see `_finished`
    padding: int = loaded.padding["pad_id"]
    loaded.no_padding()
    loaded.encode_special_tokens = True
    return loaded, padding


def _settle_threads() -> None:
    """Say that threads are wanted: left open, the library writes a warning whenever the process forks afterwards."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
