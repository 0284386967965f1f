"""CSV, TSV and JSON: every row is read as it is written, or the line that is wrong is named."""

import csv
import io
import json
from pathlib import Path

import pytest

from provfl_cli.data.load import load
from provfl_cli.data.tables import read_table
from provfl_cli.errors import InputError
from tests.text_sets import text_set


def rows_of(file: Path) -> tuple[list[str], tuple[str, ...]]:
    """Its texts, and what is said of how they were read."""
    table = read_table(file, text_set(file))
    return list(table.columns["text"]), table.notes


def tsv(file: Path, texts: list[str]) -> list[str]:
    """Texts written as they are."""
    file.write_text("text\tlabel\n" + "".join(f"{text}\t{row % 2}\n" for row, text in enumerate(texts)))
    return texts


def quoted(file: Path, texts: list[str], how: int, separator: str = "\t") -> list[str]:
    """Texts written by Python's own module."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=separator, quoting=how)
    writer.writerows([("text", "label"), *((text, row % 2) for row, text in enumerate(texts))])
    file.write_text(stream.getvalue(), newline="")
    return texts


def test_a_tsv_whose_sentences_open_with_a_quotation_mark_has_all_its_rows(tmp_path):
    texts = tsv(tmp_path / "a.tsv", [f"sentence {i}" if i % 7 else f'"sentence {i} opens' for i in range(70)])
    examples, _ = load(text_set(tmp_path / "a.tsv"), 8)
    assert sorted([*examples.train_inputs, *examples.test_inputs]) == sorted(texts)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (['" one , " he said', "two", 'three "'], ""),
        (['"opens', 'closes"', "x"], "read without quoting, 3 rows (with quoting they would be 2)"),
        (['"', "x", '"', "y"], "read without quoting, 4 rows"),
        (['"whole"', "x", "y"], "a.tsv: read without quoting, 3 rows: quotation marks are text"),
        (['"whole"', 'say "so"', "y"], "read without quoting, 3 rows"),
        (["plain", "as it is"], ""),
    ],
)
def test_quotation_marks_of_a_tsv_are_text(tmp_path, texts, says):
    tsv(tmp_path / "a.tsv", texts)
    rows, notes = rows_of(tmp_path / "a.tsv")
    assert rows == texts
    assert (says in "".join(notes)) if says else not notes


def test_a_tsv_that_is_ambiguous_says_what_the_other_reading_would_be(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"x\t1\ny"\t0\nz\t1\n')
    assert rows_of(tmp_path / "a.tsv") == (
        ['"x', 'y"', "z"],
        ("a.tsv: read without quoting, 3 rows (with quoting they would be 2): quotation marks are text",),
    )


@pytest.mark.parametrize("how", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("texts", [['say "so"', "two", "3"], ["tab\there", "two", 'a "b"'], ["two\nlines", '"x"', "y"]])
def test_a_tsv_that_is_quoted_is_read_so(tmp_path, how, texts):
    quoted(tmp_path / "a.tsv", texts, how)
    assert rows_of(tmp_path / "a.tsv")[0] == texts


@pytest.mark.parametrize("how", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
def test_csv_is_quoted(tmp_path, how):
    texts = ['say "so"', "a, b", "two\r\nlines", " blanks ", "NA", "null", "007", "x" * 300_000]
    quoted(tmp_path / "a.csv", texts, how, ",")
    assert rows_of(tmp_path / "a.csv") == (texts, ())


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "A.CSV"])
def test_lines_may_end_as_they_do_anywhere(tmp_path, end, name):
    separator = "\t" if name.endswith("tsv") else ","
    rows = [("text", "label"), ("one", "0"), ("", ""), ("two", "1")]
    (tmp_path / name).write_text(end.join(separator.join(row) if any(row) else "" for row in rows), newline="")
    assert rows_of(tmp_path / name)[0] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "text,label\none,0\n\nt,w,o,1\n", "line 4 has 4 fields, the first line 2"),
        ("a.csv", 'text,label\n"two\nlines",0\nthree\n', "line 4 has 1 field, the first line 2"),
        ("a.tsv", "text\tlabel\none\t0\ntwo\tmore\t1\n", "line 3 has 3 fields, the first line 2"),
        ("a.tsv", 'text\tlabel\n"one\t0\ntwo\tmore\t1\n', "line 3 has 3 fields, the first line 2"),
        ("a.csv", 'text,label\none,0\n"two" more,1\nx,0\n', "line 3: a quoted field goes on after its closing"),
        ("a.csv", 'text,label\none,0\n"two,1\nx,0\n', "line 3 opens a quotation mark that nothing closes"),
        ("a.csv", "text,label\nun,0\ncaf\u00e9,1\n".encode("latin-1"), r"line 3 is not UTF-8 \(perhaps Latin-1\)"),
        ("a.tsv", "text\tlabel\nun\t0\ncaf\u00e9\t1\n".encode("latin-1"), r"line 3 is not UTF-8 \(perhaps Latin-1\)"),
        ("a.csv", "text,label\none,0\n".encode("utf-16"), "it is UTF-16, not UTF-8"),
        ("a.csv", "text;label\na, b;0\n", "separated by semicolons, not by commas: save it with commas"),
        ("a.csv", "text\tlabel\na\t0\n", r"separated by tabs, not by commas: call it \.tsv"),
        ("a.csv", "3,some title that is rather long and goes on and on\n", "first line of such a file has to name its"),
        ("a.csv", "Text ,label\none,0\n", r"did you mean Text \? \(columns: Text , label\)"),
        ("a.csv", "text,TEXT,Label\none,x,0\n", r"did you mean Label\?"),
        ("a.jsonl", '{"text": "x", "label": 0}\n{"text": "y"\n', "line 2: "),
        ("a.jsonl", '{"text": "x", "label": 0}\n[1]\n', "line 2 holds something else than a record"),
        ("a.json", '{"data": [{"text": "x", "label": 0}]}', "one record of data, in which lists are nested"),
        ("a.json", '{\n "data": [{"text": "x", "label": 0}]\n}', "neither a list of records nor one record a line"),
    ],
)
def test_the_line_that_is_wrong_is_named(tmp_path, name, content, says):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=says) as caught:
        load(text_set(file), 8)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_texts_of_json_that_look_like_dates_stay_texts(tmp_path):
    rows = [{"text": f"2020-01-0{day} 00:00:00", "label": day % 2} for day in range(1, 9)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    assert rows_of(tmp_path / "a.jsonl")[0] == [row["text"] for row in rows]
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "x" * 3_000_000, "label": 0}))
    assert len(rows_of(tmp_path / "b.jsonl")[0][0]) == 3_000_000
