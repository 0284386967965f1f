"""Files and console: whole files with the same bytes, tables with chance in them, nothing wider than the console."""

import io
import json
import re
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, Group

from provfl_cli.data.federated import Faults
from provfl_cli.errors import RunError
from provfl_cli.evaluation.contributions import tidy
from provfl_cli.evaluation.metrics import localization
from provfl_cli.reporting import console as show
from provfl_cli.reporting.drawing import Picture, bar, bars_from_zero
from provfl_cli.reporting.progress import RetrainingProgress, RoundProgress
from provfl_cli.reporting.rankings import example_rankings, show_rankings
from provfl_cli.reporting.tables import escape, localization_tables, to_latex, to_markdown
from provfl_cli.reporting.texts import Excerpt
from provfl_cli.results import files

NOTE = "mnist: embedded subset of 5,000; all 60,000 with dataset.source=hub"
NAMES = ["zero", "one", "a label with a long name"]


@pytest.fixture(scope="module")
def example():
    """Two methods, 30 clients, 6 inputs, a planted fault, a tie in the first input."""
    random = np.random.default_rng(0)
    counts = {k: random.integers(0, 400, 3) for k in range(30)}
    labels = np.array([0, 1, 2, 0, 1, 2])
    predictions = np.array([0, 1, 2, 1, 1, 2])
    contributions = random.normal(size=(6, 30)) * 1234.5
    contributions[0] = 0
    frame = pd.concat(
        tidy(
            method,
            "round",
            "centred",
            15,
            np.arange(6),
            labels,
            predictions,
            list(range(30)),
            np.ones(30, bool),
            contributions * sign,
            {"previous": np.ones(6)},
        )
        for method, sign in (("leave_one_out", 1), ("tracefl", -1))
    )
    return frame, counts, localization(frame, counts, 10, Faults((3,), ((0, 1),)))


def test_files_are_written_whole_and_read_back(tmp_path, example):
    frame, _, scores = example
    path = tmp_path / "new" / "contributions.parquet"
    files.write_parquet(path, frame)
    again = pd.read_parquet(path)
    assert again["client"].isna().sum() == 12
    assert str(again["rank"].dtype) == "Int32"
    assert again["contribution"].tolist() == frame["contribution"].tolist()
    first = path.read_bytes()
    files.write_parquet(path, frame.copy())
    assert path.read_bytes() == first

    files.write_csv(tmp_path / "localization.csv", scores)
    read = pd.read_csv(tmp_path / "localization.csv")
    np.testing.assert_array_equal(read["localization_accuracy"], scores["localization_accuracy"])
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["contributions.parquet", "localization.csv", "new"]


@pytest.mark.slow
def test_parquet_bytes_do_not_depend_on_the_process(tmp_path):
    code = (
        "import sys, pandas as pd; from pathlib import Path; from provfl_cli.results.files import write_parquet;"
        "write_parquet(Path(sys.argv[1]), pd.DataFrame({'a': [1, None], 'b': ['x', 'y'], 'c': [b'1', [b'2'][0]]}))"
    )
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_json_is_strict(tmp_path):
    path = tmp_path / "summary.json"
    files.write_json(path, {"b": np.float64("nan"), "a": np.int64(3), "c": [np.float32(0.5), np.inf], "d": Path("x")})
    strict = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert list(strict.items()) == [("b", None), ("a", 3), ("c", [0.5, None]), ("d", "x")]
    files.write_jsonl(path, [{"round": 1}, {"round": 2, "loss": float("inf")}])
    assert path.read_text() == '{"round": 1}\n{"round": 2, "loss": null}\n'


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.md"
    files.write_text(path, "old")

    def breaks() -> None:
        with files.replacing(path) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        breaks()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["table.md"]
    with pytest.raises(RunError, match="cannot write"):
        files.write_text(path / "below", "a file is no folder")


def test_tables_show_chance_beside_every_accuracy(example):
    scores = example[2]
    tables = localization_tables(scores)
    assert [table.title.split(":")[0] for table in tables] == [
        "Planted faults",
        "Planted faults",
        "Mispredictions",
        "Same-round fusion",  # leave-one-out is among the methods
        "Ranking",
        "Localization (saturates)",
    ]
    markdown, latex = to_markdown(tables, NOTE), to_latex(tables, NOTE)
    for table in tables:
        for i, name in enumerate(table.headings):
            if name in ("accuracy", "majority", "NDCG") or name.startswith("hit@"):
                assert table.headings[i + 1] == "chance"
    value = f"{scores['chance_accuracy'][0]:.3f}"
    assert f" {value} |" in markdown
    assert f" {value} &" in latex
    assert markdown.rstrip().endswith(NOTE)
    assert "dataset.source=hub" in latex
    assert r"leave\_one\_out" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == latex.count(r"\toprule") == 6
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in body[:3]} == {len(tables[0].headings) - 1}
    without = localization_tables(scores.assign(fault_inputs=0, spearman_refuse=np.nan, spearman_withhold=np.nan))
    assert len(without) == 3
    assert tables[0].headings[-1] == "chance", "what was not measured is not shown"
    corrected = localization_tables(scores.assign(corrected_inputs=[1.0, np.nan], corrected_accuracy=[0.25, np.nan]))
    assert corrected[0].headings[-2:] == ("corrected", "their accuracy")
    assert [row[-2:] for row in corrected[0].rows] == [("1", "0.250"), ("–", "–")]


def test_nothing_traced_is_no_crash(example):
    frame, counts, scores = example
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(show_rankings(example_rankings(frame.head(0), counts, NAMES, {})))
    console.print(show.localization(localization_tables(scores.head(0)), NOTE))
    assert "no input was traced" in console.export_text()


def test_missing_values_are_a_dash(example):
    scores = example[2].assign(chance_corrected=np.nan)
    table = localization_tables(scores)[-1]
    assert table.rows[0][table.headings.index("corrected")] == "–"
    assert "nan" not in to_markdown([table], NOTE) + to_latex([table], NOTE)


def test_latex_escapes():
    assert escape(r"a_b & 50% {x} \y ~ ^ # $") == (
        r"a\_b \& 50\% \{x\} \textbackslash{}y \textasciitilde{} \textasciicircum{} \# \$"
    )


def parts(example):
    frame, counts, scores = example
    pixels = np.random.default_rng(0).integers(0, 255, (6, 32, 32, 3), dtype=np.uint8)
    rankings = example_rankings(frame[frame["method"] == "leave_one_out"], counts, NAMES, pixels, faulty=(3,))
    rows = [{"round": i, "clients": 30, "loss": 1 / i, "accuracy": i / 60, "seconds": 1.2} for i in range(1, 51)]
    folder = Path("/somewhere/outputs/2026-01-01/" + "a-long-folder-name" * 5)
    return Group(
        show.header("mnist (4,000)", "lenet", "30 clients " * 12, "fedavg", "cpu", 7, ["client 3 dropped"]),
        show.heading("Labels"),
        show.labels(counts, NAMES, 10),
        show.heading("Rounds"),
        show.rounds(rows),
        show.localization(localization_tables(scores), NOTE),
        show.heading("Examples"),
        show_rankings(rankings),
        show.files(folder, {"summary.json": "the final figures"}, Path("/somewhere")),
    )


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("colours", [None, "standard", "256", "truecolor"])
def test_the_console_fits_and_says_it(example, width, colours):
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=colours, force_terminal=colours is not None, record=True)
    console.print(parts(example))
    assert (colours is not None) == ("\x1b" in out.getvalue())
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= width
    squeezed = " ".join(text.split())
    for said in (
        "mnist (4,000) on lenet",
        "seed 7",
        "client 3 dropped",
        "19 more",
        "holders",
        "accuracy chance corrected",
        "leave_one_out",
        "best constant",
        NOTE,
        "predicted zero, which is right top 30 of 30",
        "tie",
        "faulty",
        "outputs/2026-01-01/",
        "summary.json",
    ):
        assert said in squeezed, said
    assert "/somewhere" not in text  # relative to the folder of the call
    assert "…" in text  # the rounds in the middle


def test_names_are_never_read_as_markup(example):
    frame, counts, _ = example
    names = ["[bold]zero[/bold]", "[/]", "x"]
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(
        show.labels(counts, names, 10), show_rankings(example_rankings(frame.head(31 * 6), counts, names, TEXTS))
    )
    assert "predicted [bold]zero[/bold]" in console.export_text()


TEXTS = dict(
    enumerate(
        [
            "[bold red]no markup[/bold red] [/] \\[x]",
            "\x1b[31mred\x1b[0m \x1b]0;t\x07\x9b2J\rback",
            "right \u202eto left\u2069 " + "many words " * 500,
            "日本語の文字は二列を占める。" * 40,
            "e\u0301 नमस्ते שלום مرحبا 👨\u200d👩\u200d👧",
            "\n\t lines\r\nand\x0b   gaps\u2028joined \n",
        ]
    )
)


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("colours", [None, "truecolor"])
def test_texts_are_shown_as_they_are_and_short(example, width, colours):
    frame, counts, _ = example
    own = frame[frame["method"] == "tracefl"]
    console = Console(file=io.StringIO(), width=width, color_system=colours, force_terminal=bool(colours), record=True)
    console.print(show_rankings(example_rankings(own, counts, NAMES, TEXTS)))
    shown = console.export_text()
    assert shown.index("input 0") < shown.index("│ [bold red]no markup[/bold red] [/] \\[x]") < shown.index("input 1")
    assert max(map(cell_len, shown.splitlines())) <= width
    assert shown.count("…") == 1, "one text of three is longer"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TEXTS[1], ["␛[31mred␛[0m ␛]0;t␇�2J back"]),
        (TEXTS[4], [TEXTS[4]]),
        (TEXTS[5], ["lines and gaps joined"]),
        ("half \ud800 a character", ["half � a character"]),
        ("", [""]),
        ("x" * 30, ["x" * 28, "xx"]),
        ("one two three four five six seven eight", ["one two three four five six", "seven eight"]),
        (
            "one two three four five six seven eight nine ten eleven twelve",
            ["one two three four five six", "seven eight nine ten eleven…"],
        ),
        (
            "one two three four five six seven eight nine ten eleven! 12",
            ["one two three four five six", "seven eight nine ten…"],
        ),
        ("x" * 60, ["x" * 28, "x" * 27 + "…"]),
        ("日本語" * 20, ["日本語日本語日本語日本語日本", "語日本語日本語日本語日本語…"]),
        ("e\u0301" * 57, ["e\u0301" * 28, "e\u0301" * 27 + "…"]),
    ],
)
def test_excerpts(text, says):
    console = Console(file=io.StringIO(), width=30, record=True)
    console.print(Excerpt(text))
    assert console.export_text() == "".join(f"│ {line}\n" for line in says)


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(), max_size=300), st.integers(3, 130))
def test_no_text_breaks_the_console(text, width):
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system="truecolor")
    console.print(Excerpt(text))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    lines = plain.split("\n")
    assert len(lines) <= 3
    assert lines[-1] == ""
    assert all(cell_len(line) <= max(width, 4) for line in lines)
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for line in lines for character in line)


def test_labels_of_wide_letters_keep_their_columns():
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(show.labels({0: np.arange(1, 11)}, [f"{i}日本語の文字" for i in range(9)] + ["\x1b[2J"], 10))
    text = console.export_text()
    assert "0日 …" in text
    assert "␛[2J" in text
    assert max(map(cell_len, text.splitlines())) <= 80


def test_a_hundred_labels_and_a_single_client():
    counts = {0: np.arange(100)}
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(show.labels(counts, [f"class {i}" for i in range(100)], 10))
    text = console.export_text()
    assert "12 most frequent of 100 labels" in " ".join(text.split())
    assert text.split()[:3] == ["client", "88", "89"]  # "cla…" a dozen times says nothing
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (8, 8, 1), (60, 20, 3)])
@pytest.mark.parametrize("colours", [None, "truecolor"])
def test_pictures(shape, colours):
    pixels = np.zeros(shape, np.uint8)
    pixels[: shape[0] // 2] = 255  # white above, black below
    console = Console(file=io.StringIO(), width=80, color_system=colours, force_terminal=bool(colours), record=True)
    console.print(Picture(pixels))
    lines = console.export_text().splitlines()
    assert {len(line) for line in lines} == {14}
    assert len(lines) == round(14 * shape[0] / shape[1] / 2)
    if colours is None:
        assert lines[0] == "█" * 14
        assert lines[-1] == " " * 14


@settings(max_examples=25, deadline=None)
@given(st.floats(-1, 2), st.integers(1, 30))
def test_bars_have_their_width(fraction, width):
    drawn = bar(fraction, width)
    assert len(drawn) == width
    assert (drawn == "█" * width) == (fraction >= 1 - 1 / (16 * width)) or abs(fraction * width * 8 % 1 - 0.5) < 1e-6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), st.integers(2, 20))
def test_bars_begin_at_zero_and_go_left_where_values_are_negative(values, width):
    drawn = bars_from_zero(values, width)
    assert {len(one) for one in drawn} == {width}
    ends = {len(one.rstrip()) for value, one in zip(values, drawn, strict=True) if value < 0}
    begins = {width - len(one.lstrip()) for value, one in zip(values, drawn, strict=True) if value > 0 and one.strip()}
    assert len(ends | begins) <= 1
    for value, one in zip(values, drawn, strict=True):
        for other, two in zip(values, drawn, strict=True):
            assert value * other <= 0 or abs(value) < abs(other) or len(one.strip()) >= len(two.strip())


def test_the_longest_bars_fill_their_side():
    assert bars_from_zero([4.0, 2.0, -2.0, 0.0, float("nan")], 6) == ["  ████", "  ██  ", "██    ", " " * 6, " " * 6]
    assert bars_from_zero([-1.0, -0.5], 4) == ["████", "  ██"]
    assert bars_from_zero([3.289, -0.466], 10) == ["  ████████", " █        "]


def run_progress(progress, first=1, total=40):
    for number in range(first, total + 1):
        progress.round_started(number, total, 2)
        progress.client_finished()
        progress.client_finished()
        progress.round_finished(number, {"loss": 1.0, "accuracy": 0.5})


def test_plain_progress_has_few_lines_and_no_control_codes():
    out = io.StringIO()
    seconds = iter(range(10_000))
    with RoundProgress(Console(file=out, width=80), clock=lambda: float(next(seconds))) as progress:
        run_progress(progress)
    lines = out.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("round 4 of 40: accuracy 0.500, loss 1.000, about 0:00:")
    assert lines[-1] == "round 40 of 40: accuracy 0.500, loss 1.000"
    assert "\x1b" not in out.getvalue()


def test_time_left_counts_from_where_a_resumed_run_began():
    out = io.StringIO()
    now = [0.0]
    progress = RoundProgress(Console(file=out, width=80), clock=lambda: now[0])
    progress.round_started(39, 40, 2)
    now[0] = 60.0
    progress.round_finished(39, {"loss": 1.0, "accuracy": 0.5})
    progress.round_started(40, 40, 2)
    progress.round_finished(40, {"loss": 1.0, "accuracy": 0.5})
    assert progress._left(39.0) == pytest.approx(60.0)


def test_live_progress_starts_its_thread_late_and_wipes_itself():
    out = io.StringIO()
    before = set(threading.enumerate())  # other tests may have left some
    console = Console(file=out, width=80, force_terminal=True, force_interactive=True, color_system="truecolor")
    with RoundProgress(console) as progress:
        assert set(threading.enumerate()) <= before  # workers may still be forked
        progress.round_started(1, 3, 2)
        drawing = set(threading.enumerate()) - before
        assert drawing
        progress.client_finished()
        progress.round_finished(1, {"loss": 1.0, "accuracy": 0.5})
    for thread in drawing:
        thread.join(2)
        assert not thread.is_alive()
    assert "Round" in out.getvalue()
    assert "accuracy 0.500" in out.getvalue()


def test_retraining_tells_what_is_left_by_what_was_trained_here() -> None:
    out, now = io.StringIO(), [0.0]
    with RetrainingProgress(Console(file=out, width=80), 4, clock=lambda: now[0]) as progress:
        progress.finished(0.5, False)  # from the cache: it took no time
        now[0] = 10.0
        progress.finished(0.25, True)
        progress.finished(float("nan"), False)
        progress.finished(0.75, True)
    assert out.getvalue().splitlines() == [
        "1 of 4 trained again: accuracy 0.500",
        "2 of 4 trained again: 0:00:20 left, accuracy 0.250",
        "3 of 4 trained again: 0:00:10 left, cannot be trained",
        "4 of 4 trained again: accuracy 0.750",
    ]


def test_a_console_that_cannot_print_a_character_does_not_crash():
    code = "from provfl_cli.reporting.console import *;make_console().print(files(Path('█'), {'…': '░'}, Path('.')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, env={"PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 0, done.stderr


def test_holders_are_clients_with_exactly_as_many_examples_or_more():
    out = io.StringIO()
    counts = {0: np.array([10, 9, 11]), 1: np.array([10, 9, 9])}
    Console(file=out, width=100).print(show.labels(counts, ["a", "b", "c"], 10))
    (line,) = [line for line in out.getvalue().splitlines() if line.strip().startswith("holders")]
    assert line.split()[1:] == ["2", "0", "1"]
