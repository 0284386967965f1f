"""`provfl figure`: each kind in each format, what it draws, and wrong words."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from provfl_cli.cli import main
from provfl_cli.reporting.figures import KINDS, draw
from provfl_cli.results.folders import RunFolder, read_run
from provfl_cli.results.run import read_contents
from tests.made_runs import LABELS, whole_run
from tests.scored_runs import made

Captured = pytest.CaptureFixture[str]
BEGINS = {"pdf": b"%PDF-", "png": b"\x89PNG", "svg": b"<?xml"}


def figure_of(folder: Path, kind: str, number: int | None = None):  # type: ignore[no-untyped-def]
    run = read_run(folder)
    assert isinstance(run, RunFolder)
    return draw(read_contents(run), kind, number)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_every_format_and_twice_the_same(workspace: Path, kind: str) -> None:
    whole_run(workspace / "run", rounds=(4, 5), scopes=("round", "lineage"), faulty=(1,))
    for ending, begin in BEGINS.items():
        for name in ("one", "two"):
            assert main(["figure", "run", kind, "--out", f"{name}.{ending}"]) == 0
        written = Path(f"one.{ending}").read_bytes()
        assert written.startswith(begin)
        assert written == Path(f"two.{ending}").read_bytes()
    assert b"/FontFile2" in Path("one.pdf").read_bytes()
    with Image.open("one.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


@pytest.mark.slow
def test_a_ranking_shows_the_clients_of_the_input_asked_for(workspace: Path) -> None:
    whole_run(workspace / "run", faulty=(1,))
    axes = figure_of(workspace / "run", "ranking", 2).axes[1]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "1 (faulty)"
    assert len(names) == 5
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 3.0
    tied = figure_of(workspace / "run", "ranking", 0).axes[1].get_yticklabels()
    assert [label.get_text() for label in tied][:2] == ["0 tied", "3 tied"]


@pytest.mark.slow
def test_maps_show_what_was_recorded(workspace: Path) -> None:
    whole_run(workspace / "run")
    run = read_run(workspace / "run")
    assert isinstance(run, RunFolder)
    opened = read_contents(run)
    assert opened.counts is not None
    shown = figure_of(workspace / "run", "labels").axes[0]
    np.testing.assert_array_equal(np.ma.filled(shown.images[0].get_array(), 0), np.stack(list(opened.counts.values())))
    assert next(label.get_text() for label in shown.get_xticklabels()) == LABELS[0]
    trace = opened.traces[0][1]
    order = np.argsort(trace.labels, kind="stable")
    drawn = np.asarray(figure_of(workspace / "run", "heatmap").axes[0].images[0].get_array())
    np.testing.assert_allclose(
        drawn, (trace.contributions / np.abs(trace.contributions).max(axis=1, keepdims=True))[order].T
    )


@pytest.mark.slow
def test_texts_and_curves(workspace: Path) -> None:
    whole_run(workspace / "run", texts=True, rounds=(4, 5))
    said = " ".join(text.get_text() for text in figure_of(workspace / "run", "ranking").axes[0].texts)
    assert "onerror" in said
    lines = figure_of(workspace / "run", "accuracy").axes[0].lines
    assert list(lines[0].get_ydata()) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert [list(line.get_xdata()) for line in lines[1:]] == [[4, 5]] * 4


def test_wrong_words_are_answered_in_one_line(workspace: Path, capsys: Captured) -> None:
    whole_run(workspace / "runs" / "one")
    made(workspace / "bare")
    (workspace / "bare" / "metrics.jsonl").write_text("")
    for arguments, words in (
        (["runs", "rankings", "--out", "x.pdf"], "did you mean ranking?"),
        (["runs", "ranking", "--out", "x.gif"], "must end in .pdf or .png or .svg"),
        (["runs", "ranking"], "--out"),
        (["runs", "ranking", "--out", "x.pdf", "--input", "3"], "the nearest are 2, 4"),
        (["runs", "ranking", "--out", "x.pdf", "--input", "-3"], "--input"),
        (["runs", "labels", "--out", "x.pdf", "--input", "2"], "--input is for ranking"),
        (["bare", "heatmap", "--out", "x.pdf"], "no traced input"),
        (["bare", "labels", "--out", "x.pdf"], "no clients.csv"),
        (["bare", "accuracy", "--out", "x.pdf"], "no round"),
    ):
        assert main(["figure", *arguments]) == 2, arguments
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1
    whole_run(workspace / "runs" / "two")
    assert main(["figure", "runs", "ranking", "--out", "x.pdf"]) == 2
    assert "holds 2 runs" in capsys.readouterr().err
    assert not Path("x.pdf").exists()


@pytest.mark.slow
def test_the_settings_of_a_folder_do_not_change_a_figure(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `matplotlibrc` in the folder one stands in is read on import, and may turn on LaTeX, which is a program."""
    whole_run(workspace / "run", faulty=(1,))
    assert main(["figure", "run", "accuracy", "--out", "plain.png"]) == 0
    for key, value in {"text.usetex": True, "font.size": 30, "image.origin": "lower"}.items():
        monkeypatch.setitem(matplotlib.rcParams, key, value)
    assert main(["figure", "run", "accuracy", "--out", "theirs.png"]) == 0
    assert Path("theirs.png").read_bytes() == Path("plain.png").read_bytes()
