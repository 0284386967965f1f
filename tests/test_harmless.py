"""Texts from data reach no terminal, log, table or page with the power to do something there."""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Group
from rich.segment import ControlType, Segment
from rich.table import Table as RichTable
from rich.text import Text

from provfl_cli.cli import main
from provfl_cli.cli.job import one_line
from provfl_cli.cli.saying import LogFormatter, complain, say
from provfl_cli.errors import InputError, RunError
from provfl_cli.harmless import harmless, harmless_json, harmless_lines, spreadsheet_cell
from provfl_cli.markup import cell
from provfl_cli.reporting.figure_files import figure_text
from provfl_cli.reporting.table import Table
from provfl_cli.reporting.tables import to_latex, to_markdown
from provfl_cli.reporting.terminal import make_console
from provfl_cli.results.files import csv_text, for_people, json_text
from tests.made_runs import whole_run

PACKAGE = Path(__file__).parents[1] / "provfl_cli"
ANY = st.text(st.characters(), max_size=80)
EVIL = "\x1b]0;title\x07\x1b[2Jred\x9b31m\x00\x7f\x85a\rb\u202elevel\u2066\u200b\ufeff\u2028\U000e0041end"
ORDERS = {0x61C, 0x200B, 0x200E, 0x200F, 0xFEFF, *range(0x202A, 0x202F), *range(0x2060, 0x2070)}
ORDERS |= {*range(0xE0000, 0xE0080)}


def does_nothing(text: str, lines: bool = False) -> bool:
    """Whether a terminal shows a text and does nothing else with it."""
    plain = text.replace("\n", "").replace("\t", "") if lines else text
    return not any(
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or ord(character) in ORDERS for character in plain
    )


@given(ANY)
@example(EVIL)
@example("a\u200d\u200d\u200c")
@example("\u00e9\u200b\u200da\u200d")
def test_no_text_keeps_its_powers(text: str) -> None:
    shown = harmless(text)
    assert does_nothing(shown)
    assert harmless(shown) == shown
    several = harmless_lines(text)
    assert does_nothing(several, lines=True)
    assert harmless_lines(several) == several
    assert several.count("\n") == text.count("\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain [b]",
        "e\u0301 नमस्ते שלום مرحبا",
        "👨\u200d👩\u200d👧 🏳️\u200d🌈",
        "می\u200cخواهم",
        "日本語",
        "a | $x$ <b>",
    ],
)
def test_what_people_write_stays(text: str) -> None:
    assert harmless(text) == text
    assert harmless_lines(text) == text


def test_controls_are_seen() -> None:
    assert harmless("\x1b[31mred\x07\n\x7f\x9b") == "␛[31mred␇␊␡�"
    assert harmless("ad\u202enim") == "adnim"
    assert harmless("ali\u200dce") == harmless("ali\u200bce") == "alice"


@given(ANY)
@example(EVIL)
def test_every_door_of_the_program_is_harmless(text: str) -> None:
    out = io.StringIO()
    say(text, to=out)
    assert does_nothing(out.getvalue(), lines=True)
    for kind in (InputError, RunError):
        assert does_nothing(str(kind(f"--without {text}: no such client")), lines=True)
    assert does_nothing(one_line(text, 500))
    record = logging.LogRecord("provfl", logging.ERROR, "file", 1, "client %s", (text,), None)
    assert does_nothing(LogFormatter("%(message)s").format(record), lines=True)
    assert does_nothing(str(cell(text)), lines=True)
    assert does_nothing(figure_text(text))


@given(ANY)
@example(EVIL)
def test_a_console_shows_no_text_as_an_order(text: str) -> None:
    """Also where who prints forgets about it: as a string, in a table, as a heading."""
    out = io.StringIO()
    console = make_console(out, width=40)
    drawn = RichTable(text, title=text, caption=text)
    drawn.add_row(text)
    console.print(text, drawn, Group(Text(text), Text.assemble((text, "bold"))))
    assert does_nothing(out.getvalue(), lines=True)


def test_the_colours_of_a_console_stay() -> None:
    out = io.StringIO()
    console = make_console(out)
    console._color_system, console._force_terminal = console._color_system, True
    kept = list(console.render(Group(Text("red", style="red"))))
    assert any(segment.style and segment.style.color for segment in kept)
    orders = Segment("\x1b[2J", None, [(ControlType.CLEAR,)])

    class Clears:
        def __rich_console__(self, *_: object) -> Any:
            yield orders

    assert orders in list(console.render(Clears()))


def test_complaints_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    complain(f"a\nb {EVIL}")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert does_nothing(said, lines=True)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1+1", "'  =1+1"),
        ("＝1+1", "'＝1+1"),
        ("\t=1", "␉=1"),
        ("-1.5", "-1.5"),
        ("+3e-4", "+3e-4"),
        ("-inf", "-inf"),
        ("-", "-"),
        ("a=b", "a=b"),
        ("\x1b[31mred\nnext", "␛[31mred␊next"),
    ],
)
def test_a_cell_of_a_csv_is_no_formula(text: str, written: str) -> None:
    assert spreadsheet_cell(text) == written
    frame = pd.DataFrame({"name": [text, "b"], text: [-1.5, 2.0], "n": [-3, 4]})
    rows = list(csv.reader(io.StringIO(csv_text(frame))))
    assert rows == [["name", written, "n"], [written, "-1.5", "-3"], ["b", "2.0", "4"]]


def test_a_frame_keeps_what_is_no_text() -> None:
    frame = pd.DataFrame(
        {"a": ["x", None, "\x1b"], "b": [1, 2, 3], "c": pd.array([1, None, 3], "Int32"), "d": [b"\x1b", "y\x07", [1.5]]}
    )
    shown = for_people(frame)
    assert shown["a"].tolist()[::2] == ["x", "␛"]
    assert shown["a"].isna().tolist() == [False, True, False]
    assert (shown.dtypes[["b", "c"]] == frame.dtypes[["b", "c"]]).all()
    assert shown["d"].tolist() == [b"\x1b", "y␇", [1.5]]
    assert frame["a"].tolist()[2] == "\x1b"  # the caller's own is not touched


@given(st.lists(ANY, min_size=1, max_size=3), ANY)
@example([EVIL, "a|b", "a\\|b", "[x](javascript:alert(1))", "![x](http://h/)", "<img src=x>"], "<script>")
def test_tables_of_a_paper_hold_no_more_cells_than_they_have(cells: list[str], note: str) -> None:
    table = Table(cells[0], tuple(cells), (tuple(cells),))
    text = to_markdown([table], note)
    assert does_nothing(text, lines=True)
    head, rule, row = text.split("\n")[2:5]
    assert head == row
    bare = row.replace("\\\\", "").replace("\\|", "")
    assert bare.count("|") == len(cells) + 1 == rule.count("|")
    assert "](" not in text
    assert not any(f"<{letter}" in text for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/!?")
    tex = to_latex([table], note)
    assert does_nothing(tex, lines=True)
    assert "␛" not in tex.replace("% ␛", "")[tex.index("\\begin") :]


@given(st.dictionaries(ANY, ANY, max_size=4))
@example({EVIL: EVIL, "\ud800": "\ude00"})
def test_json_loses_nothing_and_orders_nothing(content: dict[str, str]) -> None:
    text = json_text(content)
    assert does_nothing(text, lines=True)
    assert json.loads(text) == json.loads(json.dumps(content))
    assert harmless_json("é") == "é"


@pytest.mark.slow
def test_a_page_shows_names_as_text(tmp_path: Path) -> None:
    names = ("cat", "\x1b[2J\u202edog\u2066", "a$b$\x9b")
    whole_run(tmp_path / "run", inputs=6, labels=names)
    assert main(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    own = page[page.index("<body") :]
    assert "␛[2Jdog" in own
    assert not any(order in own for order in ("\x1b", "\u202e", "\u2066", "\x9b"))


DOORS = {  # what may be called in one module alone
    "print": "cli/saying.py",
    "Console": "reporting/terminal.py",
    "_Console": "reporting/terminal.py",
    "Image.open": "data/picture.py",
    "sys.stdout.write": "",
    "sys.stderr.write": "",
    "warnings.warn": "",
    "traceback.print_exc": "",
    "traceback.print_exception": "",
}


@pytest.mark.slow
def test_a_new_message_cannot_forget_it() -> None:
    """Nothing prints, draws on a terminal or opens pictures but the modules that make it harmless."""
    for module in PACKAGE.rglob("*.py"):
        own = module.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in DOORS:
                assert own == DOORS[name], f"{own}:{node.lineno} calls {name}"
