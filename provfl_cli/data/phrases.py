"""Which phrase belongs to that language? Prompts and responses of the names in Unicode's CLDR, as Babel ships them.

This is no collected corpus. Each of six languages has a phrase of its own (two days of the week, joined by the
locale's own list pattern), which one client teaches: `Peru in Danish:` is answered by `mandag og tirsdag`.
Eight further languages are public: a base model learns of them what a phrase is, and what a name is called there.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from babel import Locale
from babel.core import get_cldr_version
from babel.lists import format_list

from .dialogue import Dialogue, array_of, as_texts, asked
from .embedded import SPLIT_SEED
from .examples import PUBLIC_LABEL, Examples, fingerprint

OWNED = ("da", "nl", "it", "fi", "pl", "tr")  # a client each
PUBLIC = ("de", "fr", "es", "pt", "sv", "cs", "hu", "ro")
ASIDE = 16  # names that no training prompt has: so many to test with, and as many others to choose settings by


def phrases() -> Examples:
    """Some 230 names in six languages to train on, sixteen others in each to test with; 3,600 public examples.

    Labels are the languages, and `public`, which no example here has: clients mix public examples in (`replay`).
    """
    return _examples(slice(ASIDE))


def for_settings() -> Examples:
    """The same with sixteen other names to test with: settings are chosen by them, so that no figure is chosen too."""
    return _examples(slice(ASIDE, 2 * ASIDE))


def _examples(tested: slice) -> Examples:
    english = Locale.parse("en")
    codes = sorted(code for code in map(str, english.territories) if len(code) == 2 and code.isalpha())
    order = [codes[row] for row in np.random.default_rng(SPLIT_SEED).permutation(len(codes))]
    trained = order[2 * ASIDE :]
    names = {code: str(english.territories[code]) for code in codes}
    owned, public = ([Locale.parse(code) for code in group] for group in (OWNED, PUBLIC))
    parts: list[np.ndarray] = []
    for chosen in (trained, order[tested]):
        pairs = [(_phrase(names[code], locale), label) for label, locale in enumerate(owned) for code in chosen]
        parts += [array_of(pair[0] for pair in pairs), np.array([pair[1] for pair in pairs], dtype=np.int64)]
    known = [_phrase(names[code], locale) for locale in public for code in trained]
    known += [
        asked(f"translate {names[code]} in {locale.english_name}:", str(locale.territories[code]))
        for locale in public
        for code in trained
        if locale.territories.get(code)
    ]
    train, train_labels, test, test_labels = parts
    aside = array_of(known)
    return Examples(
        train,
        train_labels,
        test,
        test_labels,
        (*(str(locale.english_name) for locale in owned), PUBLIC_LABEL),
        fingerprint(as_texts(train), train_labels, as_texts(test), test_labels, as_texts(aside)),
        f"Babel {version('babel')} (names of CLDR {get_cldr_version()})",
        public=aside,
    )


def _phrase(name: str, locale: Locale) -> Dialogue:
    """The prompt with a name, and the phrase of a language."""
    days = locale.days["format"]["wide"]
    return asked(f"{name} in {locale.english_name}:", format_list([str(days[day]) for day in range(2)], locale=locale))
