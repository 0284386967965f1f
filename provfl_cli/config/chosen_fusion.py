"""A fusion chosen by words, such as `trimmed_mean fraction=0.1`, whoever wrote them: nothing in them is looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from ..checks import excerpt
from ..errors import InputError, did_you_mean
from ..fusion.fuse import Fusion
from .fields import fitted
from .stored_yaml import refers, scalar
from .targets import imported_part
from .tree import option_file, options

LONGEST = 100  # characters of a word: far more than the name of a setting and a number take


def chosen_fusion(words: Sequence[str]) -> Fusion:
    """The fusion of `conf/fusion/NAME.yaml`.

    Args:
        words: NAME, and behind it settings of that file as KEY=VALUE, each a plain value that takes the place of the
            file's own.

    Raises:
        InputError: no such fusion, a setting that it does not have, a value that is none, or a fusion of which rounds
            of others hold too little; nothing but what the file itself names has been imported.
    """
    name, *settings = words
    if name not in options("fusion"):
        raise InputError(f"fusion={excerpt(name)}: {did_you_mean(name[:LONGEST], options('fusion'))}")
    plain = OmegaConf.to_container(OmegaConf.load(option_file("fusion", name)))
    assert isinstance(plain, dict)
    block = plain.get("fusion", plain)  # one that brings other settings stands in a block
    target = block.pop("_target_")
    block |= _settings(name, settings, block)
    for key, value in block.items():
        if refers(value):
            raise InputError(f"fusion={name}: fusion.{key} follows from how clients train: give fusion.{key}=VALUE")
    fusion: Fusion = fitted(imported_part(target, "fusion"), block, "fusion")
    if fusion.sums_products:
        raise InputError(
            f"fusion={name}: what it sums goes into the base of the model, which recorded rounds do not hold: it is "
            "for provfl run"
        )
    return fusion


def _settings(name: str, words: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the words give to some of the settings `known` to the fusion."""
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise InputError(f"fusion={name} {excerpt(word)}: settings are KEY=VALUE")
        if key not in known:
            there = did_you_mean(key[:LONGEST], known) if known else "it has no settings"
            raise InputError(f"fusion={name} {excerpt(word)}: no such setting, {there}")
        if key in settings:
            raise InputError(f"fusion={name} {excerpt(word)}: {key} is there twice: give it once")
        if len(text) > LONGEST or refers(text):
            raise InputError(
                f"fusion={name} {excerpt(word)}: give a plain value of at most {LONGEST} characters, such as "
                f"{key}={'1' if known[key] is None or refers(known[key]) else known[key]}"
            )
        settings[key] = scalar(text)
    return settings
