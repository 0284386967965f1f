"""CSV and TSV: rows of texts, and whether quotation marks are quoting or text."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from ..errors import InputError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
LONGEST_FIELD = 2**30  # characters; the module's own limit of 131,072 is less than a long text
QUOTE = '"'

Collected = tuple[list[str], dict[str, list[str]], int]


class Malformed(ValueError):
    """A line that does not fit; `by_quoting`: because of its quotation marks."""

    def __init__(self, reason: str, by_quoting: bool = False) -> None:
        super().__init__(reason)
        self.by_quoting = by_quoting


def read(file: Path, columns: Sequence[str]) -> tuple[list[str], dict[str, list[str]], int, tuple[str, ...]]:
    """Read those of `columns` that a file has: its column names, texts by column, number of rows, notes for the user.

    CSV is quoted as in RFC 4180. TSV is not, as GLUE's files are not, unless its content shows that it is: without
    quoting its lines do not come apart and with it they do; or whatever starts with a quotation mark is a well-formed
    quoted field, none stands elsewhere, and quoting was needed there or is the same throughout the column.

    Raises:
        InputError: columns that are separated by something else.
        ValueError: a file that is not UTF-8, is empty, or holds a row with another number of fields than the first
            line; the line is named.
    """
    separator = SEPARATORS[file.suffix.lower()]
    names = header(file)
    if not set(columns) & set(names):
        _check_separator(file, separator, columns)
        return names, {}, 0, ()
    if separator == ",":
        return *_collected(names, columns, _quoted(file, separator)), ()
    plain = _attempt(names, columns, _plain(file, separator))
    quoted: Collected | Malformed | None = None
    if _has_quotes(file):
        quoted = _attempt(header(file, quoting=True), columns, _quoted(file, separator))
    if isinstance(plain, Malformed):
        if isinstance(quoted, Malformed) and not quoted.by_quoting:
            raise quoted
        if quoted is None or isinstance(quoted, Malformed):
            raise plain
        return *quoted, (f"{file.name}: read with quoting, {quoted[2]:,} rows: without it lines do not fit",)
    if quoted is None:
        return *plain, ()
    quoting, enclosing = _shows_quoting(_plain(file, separator))
    if isinstance(quoted, Malformed):
        other = ""
    elif quoting:
        return *quoted, ()
    else:
        other = "" if quoted[2] == plain[2] else f" (with quoting they would be {quoted[2]:,})"
    if not enclosing and isinstance(quoted, Malformed):
        return *plain, ()
    return *plain, (f"{file.name}: read without quoting, {plain[2]:,} rows{other}: quotation marks are text",)


def _attempt(names: list[str], columns: Sequence[str], rows: Iterator[tuple[int, list[str]]]) -> Collected | Malformed:
    """What `_collected` gives, or why it does not."""
    try:
        return _collected(names, columns, rows)
    except Malformed as error:
        return error


def header(file: Path, quoting: bool = False) -> list[str]:
    """The names in a file's first line; those of a TSV may be in quotation marks. ValueError where there is none."""
    separator = SEPARATORS[file.suffix.lower()]
    rows = _quoted(file, separator) if quoting or separator == "," else _plain(file, separator)
    _, names = next(rows, (0, []))
    if not names:
        raise Malformed("it is empty")
    if separator == "\t" and not quoting and all(len(x) > 1 and x[0] == x[-1] == QUOTE for x in names):
        return [name[1:-1] for name in names]
    return names


def _has_quotes(file: Path) -> bool:
    with file.open("rb") as stream:
        return any(QUOTE.encode() in line for line in stream)


def _shows_quoting(rows: Iterator[tuple[int, list[str]]]) -> tuple[bool, bool]:
    """Of rows read without quoting: whether their quotation marks quote fields, and whether any encloses a field."""
    enclosed, needed = Counter[int](), Counter[int]()
    text, total = False, 0
    next(rows)  # the names
    for _, row in rows:
        total += 1
        for column, value in enumerate(row):
            if QUOTE not in value:
                continue
            inner = value[1:-1]
            if len(value) > 1 and value[0] == value[-1] == QUOTE and QUOTE not in inner.replace(QUOTE * 2, ""):
                enclosed[column] += 1
                needed[column] += QUOTE in inner
            else:
                text = True
    return not text and all(n in (total, needed[column]) for column, n in enclosed.items()), bool(enclosed)


def _collected(names: list[str], columns: Sequence[str], rows: Iterator[tuple[int, list[str]]]) -> Collected:
    """Names, the values of the columns that are asked for, and the number of rows."""
    wanted = {name: names.index(name) for name in columns if names.count(name) == 1}
    values: dict[str, list[str]] = {name: [] for name in wanted}
    total = -1
    for line, row in rows:
        if len(row) != len(names):
            raise Malformed(f"line {line} has {_fields(len(row))}, the first line {_fields(len(names))}")
        total += 1
        if total:
            for name, position in wanted.items():
                values[name].append(row[position])
    return names, values, total


def _plain(file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line that is not empty."""
    with file.open(encoding="utf-8-sig") as stream:
        try:
            for number, line in enumerate(stream, 1):
                if line != "\n":
                    yield number, line.rstrip("\n").split(separator)
        except UnicodeDecodeError:
            raise Malformed(_encoding(file)) from None


def _quoted(file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line, and fields, of each row."""
    csv.field_size_limit(LONGEST_FIELD)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, delimiter=separator, strict=True)
        line = 1
        try:
            for row in rows:
                if row:
                    yield line, row
                line = rows.line_num + 1
        except UnicodeDecodeError:
            raise Malformed(_encoding(file)) from None
        except csv.Error as error:
            if "expected after" in str(error):
                reason = f"line {line}: a quoted field goes on after its closing quotation mark; double those inside it"
            elif "unexpected end" in str(error):
                reason = f"line {line} opens a quotation mark that nothing closes"
            else:
                reason = f"line {line}: {error}"
            raise Malformed(reason, by_quoting=True) from None


def _check_separator(file: Path, separator: str, columns: Sequence[str]) -> None:
    """Raise InputError where the columns are there, but separated by something else than the file's name says."""
    with file.open(encoding="utf-8-sig") as stream:
        first = next(iter(stream), "").rstrip("\n")
    for other, name in NAMES.items():
        if other != separator and set(columns) <= {field.strip(QUOTE) for field in first.split(other)}:
            ways = {",": "call it .csv", "\t": "call it .tsv"}
            way = ways.get(other, f"save it with {NAMES[separator]}")
            raise InputError(
                f"dataset.input_column={columns[0]}: no such column in {file}: its columns are separated by {name}, "
                f"not by {NAMES[separator]}: {way}"
            )


def _encoding(file: Path) -> str:
    """Which line is not UTF-8, or what the whole file is instead."""
    with file.open("rb") as stream:
        if stream.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            return "it is UTF-16, not UTF-8"
        stream.seek(0)
        for number, line in enumerate(chain(stream), 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"line {number} is not UTF-8 (perhaps Latin-1)"
    return "it is not UTF-8"


def _fields(count: int) -> str:
    return "1 field" if count == 1 else f"{count} fields"
