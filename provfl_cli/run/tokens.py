"""Texts as a recorded model reads them, by the tokenizer that the user gives, and tokens as texts again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..bounded import TOKENIZER_BYTES, read_text
from ..data.rust import panics_caught
from ..errors import InputError, brief
from ..imports import later
from ..models.network import quiet

if TYPE_CHECKING:
    import transformers
else:
    transformers = later("transformers")

LONGEST = 512  # tokens of a text, where neither the tokenizer nor the model says how many there may be
PADDING = ("[PAD]", "<pad>", "<|pad|>")  # what a tokenizer's file that names no padding calls it


@dataclass(frozen=True)
class Tokens:
    """A tokenizer, and the most tokens that a text may have."""

    tokenizer: Any
    longest: int = LONGEST

    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids, attention mask and, where the tokenizer has them, token types, int64 `[n, T]`, padded.

        Raises:
            InputError: the tokenizer gives up.
        """
        try:
            with panics_caught(), quiet():
                rows = self.tokenizer(list(texts), truncation=True, max_length=self.longest, return_attention_mask=True)
        except Exception as error:
            raise InputError(f"--tokenizer: cannot encode the texts ({brief(error)})") from error
        padding = {"input_ids": self.tokenizer.pad_token_id or 0}
        width = max(max(map(len, rows["input_ids"]), default=0), 1)
        left = self.tokenizer.padding_side == "left"
        tensors = {}
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            if name not in rows:
                continue
            tensor = torch.full((len(texts), width), padding.get(name, 0), dtype=torch.int64)
            for number, row in enumerate(rows[name]):
                if row:
                    tensor[number, slice(-len(row), None) if left else slice(len(row))] = torch.tensor(row)
            tensors[name] = tensor
        return tensors

    def decode(self, ids: Tensor, mask: Tensor | None) -> str | None:
        """The text of one row of token ids; None where these are not the tokenizer's."""
        kept = ids if mask is None else ids[mask.bool()]
        try:
            with panics_caught():
                return str(self.tokenizer.decode(kept.tolist(), skip_special_tokens=True))
        except Exception:  # a number beyond its vocabulary
            return None


def opened_tokenizer(where: str, positions: int | None = None) -> Tokens:
    """The tokenizer in a folder as transformers writes it, or in a `tokenizer.json`.

    Args:
        where: folder or file.
        positions: how many tokens the model has positions for; None: not known.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = Path(where).expanduser()
    if not path.exists():
        raise InputError(f"--tokenizer {where}: no such folder or file")
    try:
        with panics_caught(), quiet():
            if path.is_dir():
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    path, local_files_only=True, trust_remote_code=False
                )
            else:
                read_text(path, TOKENIZER_BYTES)
                tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    except Exception as error:  # of files that are missing, broken or too large
        raise InputError(
            f"--tokenizer {where}: no tokenizer can be read there ({brief(error)}): give a folder that "
            "save_pretrained wrote, or a tokenizer.json"
        ) from error
    if tokenizer.pad_token is None:
        known = tokenizer.get_vocab()
        tokenizer.pad_token = next((token for token in PADDING if token in known), None)
    said = [most for most in (positions, tokenizer.model_max_length) if most is not None and 0 < most < 1_000_000]
    return Tokens(tokenizer, min(said, default=LONGEST))
