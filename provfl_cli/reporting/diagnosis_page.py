"""Whom diagnoses name, task by task: a page for people, and a CSV with a row for each federation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..comparison.join import records
from ..config.schema import Experiment
from ..evaluation.intervals import wilson
from ..results.files import write_csv, write_text
from .table import ABSENT, Table
from .tables import to_latex, to_markdown

if TYPE_CHECKING:
    import pandas as pd

EXPLAINED = (
    "found: planted clients that are named; missed: those that are not; false: clients named that are not planted. "
    "Votes: the same of the clients that the run's own method has on top of mistakes significantly often (binomial "
    "test, Bonferroni). Each federation is diagnosed as `provfl run` does at its end: the last round and the lineage, "
    "1,000 test inputs, 250 mistakes at most; of a backdoor the mistakes are those of inputs with the trigger. "
    "Intervals are 95% (Wilson), of clients as if they were independent."
)


def write_page(folder: Path, experiment: Experiment, frame: pd.DataFrame, command: str) -> list[str]:
    """Write NAME.md, NAME.tex and NAME.csv; their names.

    Args:
        folder: where to.
        experiment: whose tasks they are.
        frame: what `comparison.diagnoses.diagnoses` returns.
        command: what a reader types to get the same.

    Raises:
        RunError: a file cannot be written.
    """
    name = experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / f"{name}.csv", frame)
    write_text(folder / f"{name}.md", "\n\n".join(_page(experiment, frame, command)) + "\n")
    tables = [together(frame), by_task(experiment, frame)]
    write_text(folder / f"{name}.tex", to_latex(tables, experiment.note))
    return [f"{name}.{end}" for end in ("md", "tex", "csv")]


def _page(experiment: Experiment, frame: pd.DataFrame, command: str) -> Iterator[str]:
    yield f"# {experiment.name}\n\n{experiment.shows}"
    yield f"```bash\n{command}\n```"
    yield to_markdown([together(frame)], "").strip()
    yield to_markdown([by_task(experiment, frame)], experiment.note).strip()
    yield EXPLAINED
    wrong = frame[(frame["missed"] > 0) | (frame["false"] > 0)]
    if len(wrong):
        yield to_markdown([_one_by_one(wrong)], "").strip()
    missing = [task for task in experiment.task_names if task not in set(frame["task"])]
    if missing:
        yield f"Not yet run: {', '.join(missing)} (`--task NAME`)."


def together(frame: pd.DataFrame) -> Table:
    """Precision, recall and false alarms, by how the data were dealt."""
    iid = frame["task"].str.startswith("iid_")
    rows = []
    for name, own in (("Dirichlet", frame[~iid]), ("iid", frame[iid]), ("both", frame)):
        if not len(own) or (name == "both" and iid.nunique() < 2):
            continue
        faulty = own[own["planted"] != ""]
        clean = own[own["planted"] == ""]
        found, missed, false = (int(faulty[column].sum()) for column in ("found", "missed", "false"))
        alarms = int((clean["named"] != "").sum())
        exact = int(((faulty["missed"] == 0) & (faulty["false"] == 0)).sum())
        rows.append(
            (
                name,
                str(len(faulty)),
                _share(found, found + false),
                _share(found, found + missed),
                f"{exact} of {len(faulty)}",
                f"{alarms} of {len(clean)}",
            )
        )
    headings = ("data", "faulty federations", "precision", "recall", "exactly the planted", "clean ones that accuse")
    return Table("All together", headings, tuple(rows))


def _share(part: int, whole: int) -> str:
    if not whole:
        return ABSENT
    low, high = wilson(part / whole, whole)
    return f"{part / whole:.2f} ({low:.2f}–{high:.2f}), {part} of {whole}"


def by_task(experiment: Experiment, frame: pd.DataFrame) -> Table:
    """A row a task."""
    rows = []
    for task in experiment.task_names:
        own = frame[frame["task"] == task]
        if not len(own):
            continue
        planted = int((own["found"] + own["missed"]).sum())
        voted = own[own["votes_found"].notna()]
        votes = f"{int(voted['votes_found'].sum())} / {int(voted['votes_false'].sum())}" if len(voted) else ABSENT
        works = own["attack_works"].dropna()
        after = own["accuracy_after"].fillna(own["accuracy_before"]).mean()
        rows.append(
            (
                task,
                str(len(own)),
                str(planted),
                str(int(own["found"].sum())),
                str(int(own["missed"].sum())),
                str(int(own["false"].sum())),
                votes,
                f"{int(works.sum())} of {len(works)}" if len(works) else ABSENT,
                f"{own['accuracy_before'].mean():.2f} → {after:.2f}",
            )
        )
    headings = (
        "task", "federations", "planted", "found", "missed", "false", "votes: found / false", "backdoor works",
        "accuracy without those named",
    )  # fmt: skip
    return Table("Task by task", headings, tuple(rows))


def _one_by_one(frame: pd.DataFrame) -> Table:
    """The federations in which somebody was missed or wrongly named."""
    rows = [
        (str(row["task"]), str(row["seed"]), row["planted"] or "nobody", row["named"] or "nobody", row["sentence"])
        for row in records(frame)
    ]
    return Table("Where the set is not the planted one", ("task", "seed", "planted", "named", "said"), tuple(rows))
