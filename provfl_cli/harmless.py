"""Text that comes from data, so that a terminal, a log, a table or a page shows it and does nothing else with it.

Names of labels, clients, layers and files, texts of inputs, and messages that quote them: whatever leaves the program
for people goes through `harmless` (one line) or `harmless_lines` (its line breaks stay). The doors are few: `say` of
the command line, the console, `InputError` and `RunError`, the writers of tables and JSON, the page, notebooks.
"""

from __future__ import annotations

import json
import re
from typing import Any

# Embeddings, overrides, isolates and marks of direction: they reorder a line. Then what has no width and is no letter.
_DIRECTION = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x2070))
_INVISIBLE = (0x00AD, 0x180E, 0x200B, *range(0x2060, 0x2066), 0xFEFF, *range(0xFFF9, 0xFFFC), *range(0xE0000, 0xE0080))
_CONTROLS = {
    **{code: 0x2400 + code for code in range(0x20)},  # ESC becomes ␛
    0x7F: 0x2421,
    **dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000)), 0xFFFD),  # a second set of controls; half characters
}
_NEUTRAL: dict[int, int | None] = {
    **_CONTROLS,
    **dict.fromkeys((0x2028, 0x2029), ord(" ")),
    **dict.fromkeys((*_DIRECTION, *_INVISIBLE)),
}
_LINES = {code: replaced for code, replaced in _NEUTRAL.items() if chr(code) not in "\n\t"}
# Joiners belong to emoji, Persian and Indic words; behind ASCII they only make two names look the same.
_STRAY_JOINERS = re.compile("(?<![^\\x00-\\x7f])[\u200c\u200d]+")
_JSON = {code: json.dumps(chr(code))[1:-1] for code in _NEUTRAL if code >= 0x7F} | {0x7F: "\\u007f"}
_FORMULA = re.compile(r"[=+\-@＝＋－＠]")


def harmless(text: str) -> str:
    """`text` without the power to move a cursor, end a line, set a colour, hide or turn the reading direction around.

    Control characters become their pictures (ESC is ␛). All else stays: accents, wide letters, right-to-left words,
    joined emoji. What is harmless already comes back as it is.
    """
    if text.isascii() and text.isprintable():
        return text
    return _STRAY_JOINERS.sub("", text.translate(_NEUTRAL))


def harmless_lines(text: str) -> str:
    """The same for a text of several lines: line feeds and tabs stay."""
    return _STRAY_JOINERS.sub("", text.translate(_LINES))


def spreadsheet_cell(text: str) -> str:
    """A text for a cell of a CSV file: harmless, and no formula where a spreadsheet would take it for one.

    What begins with = + - or @ gets an apostrophe before it, unless it is a number or a lone sign.
    """
    shown = harmless(text)
    if not _FORMULA.match(shown.lstrip()) or len(shown.strip()) == 1 or _is_number(shown):
        return shown
    return f"'{shown}"


def harmless_json(text: str) -> str:
    """JSON as it is, but for characters that `harmless` would not let through: they stand as escapes, none is lost."""
    return text if text.isascii() else text.translate(_JSON)


def harmless_values(value: Any) -> Any:
    """All texts in lists, tuples and mappings, keys too, with `harmless_lines`; other values as they are."""
    if isinstance(value, str):
        return harmless_lines(value)
    if isinstance(value, dict):
        return {harmless_values(key): harmless_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(harmless_values, value)) if type(value) in (list, tuple) else value
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
