"""Which language is this? Ten-language identification, made of the names in Unicode's CLDR as Babel ships them.

This is no collected corpus: every text is built here from CLDR's names of territories, languages and currencies.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from babel import Locale
from babel.core import get_cldr_version
from babel.lists import format_list

from .embedded import SPLIT_SEED
from .examples import Examples, fingerprint

# Relatives, so that neither the alphabet nor a single word gives the answer away: Danish and Norwegian share "og",
# Italian and Portuguese "e", and hundreds of names are the same in several of the ten.
LOCALES = ("da", "de", "en", "es", "fr", "it", "nb", "nl", "pt", "sv")
TRAIN, TEST = 1200, 300  # texts a language
HELD_OUT = 0.2  # of the territories, languages and currencies: their names occur in test texts only


def languages() -> Examples:
    """15,000 texts in ten languages (labels: their English names), 12,000 to train on and 3,000 to test with.

    A text is three names of territories, languages or currencies, joined by the locale's own list pattern ("Peru,
    Welsh, and Swiss franc"). All names are from CLDR, in the version that the installed Babel ships. No text occurs
    twice, and none is made of three names that another of the ten languages has all three of.

    The test set is fair: its names are those of territories, languages and currencies that occur in no training text,
    in none of the ten languages. What the two have in common is spelling, endings and the word for "and".
    """
    rng = np.random.default_rng(SPLIT_SEED)
    locales = [Locale.parse(code) for code in LOCALES]
    names = [_names(locale) for locale in locales]
    known = [set(own.values()) for own in names]
    things = sorted(set().union(*names))
    held_out = {things[row] for row in rng.permutation(len(things))[: round(HELD_OUT * len(things))]}
    seen = {name for own in names for thing, name in own.items() if thing not in held_out}
    parts: list[np.ndarray] = []
    for count, pools in (
        (TRAIN, [sorted({name for thing, name in own.items() if thing not in held_out}) for own in names]),
        (TEST, [sorted({name for thing, name in own.items() if thing in held_out} - seen) for own in names]),
    ):
        texts: list[str] = []
        labels: list[int] = []
        for label, (locale, pool) in enumerate(zip(locales, pools, strict=True)):
            others = [own for number, own in enumerate(known) if number != label]
            triples = _triples(pool, others, count, rng)
            texts += [format_list(triple, locale=locale) for triple in triples]
            labels += [label] * count
        order = rng.permutation(len(texts))
        parts += [np.array(texts, dtype=object)[order], np.array(labels, dtype=np.int64)[order]]
    origin = f"Babel {version('babel')} (names of CLDR {get_cldr_version()})"
    train_texts, train_labels, test_texts, test_labels = parts
    label_names = tuple(str(locale.english_name) for locale in locales)
    return Examples(train_texts, train_labels, test_texts, test_labels, label_names, fingerprint(*parts), origin)


def _names(locale: object) -> dict[str, str]:
    """The locale's names of territories, languages and currencies, by kind and code; codes without a name are left."""
    return {
        f"{kind} {code}": name
        for kind in ("territories", "languages", "currencies")
        for code, name in getattr(locale, kind).items()
        if name != code
    }


def _triples(
    pool: list[str], others: list[set[str]], count: int, rng: np.random.Generator
) -> list[tuple[str, str, str]]:
    """`count` different triples of different names of `pool`, none of which one of the `others` has all three of."""
    chosen: dict[tuple[str, str, str], None] = {}  # in the order drawn
    while len(chosen) < count:
        for rows in rng.integers(len(pool), size=(count, 3)).tolist():
            first, second, third = (pool[row] for row in rows)
            if len(set(rows)) == 3 and not any(own.issuperset((first, second, third)) for own in others):
                chosen[first, second, third] = None
    return list(chosen)[:count]
