"""An experiment's results as tables: Markdown, LaTeX, a tidy CSV, each with the published figures beside ours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..comparison.curves import metric_of, read
from ..comparison.headings import HEADINGS
from ..comparison.join import LARGEST, POOLED_SUMS, SATURATES, grouped, plain, records
from ..comparison.reproduction import PUBLISHED, PublishedFigure, Reproduction, fits, in_order, name_of
from ..comparison.settings import MISSING, short
from ..config.schema import Experiment
from ..evaluation.backdoor import looked_for
from ..imports import later
from ..results.files import write_csv, write_text
from .experiment_figure import drawn
from .figure_files import write_figure
from .joined_views import below, cell, figure_of, tidy_csv
from .table import Table
from .tables import to_latex, to_markdown

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = later("pandas")

ROUNDS_SHOWN = 10
WHOLE = ("clients_kept",)  # numbers of things, in the middle of the seeds
OF_BACKDOORS = ("attack_success", "attack_success_untriggered", "clean_twin_accuracy")  # no tables: of the whole run
BESIDE = ("inputs", "global_accuracy", *OF_BACKDOORS, "epsilon")  # columns of the first table, where they are known


def tables(reproduction: Reproduction) -> list[Table]:
    """One table a metric: a row a setting, a column a method, chance and published figures behind.

    What all methods share has no table of its own: it is a column of the first. Label-holding stands last, since it
    saturates; published figures are of the experiment's first metric.
    """
    metrics = sorted(reproduction.experiment.metrics, key=lambda metric: metric == SATURATES)
    shown = [metrics[0], *(metric for metric in metrics[1:] if metric not in BESIDE)]
    return [_table(reproduction, metric, first=not number) for number, metric in enumerate(shown)]


def _table(reproduction: Reproduction, metric: str, first: bool) -> Table:
    joined, experiment = reproduction.joined, reproduction.experiment
    own = joined.frame[joined.frame["metric"] == metric]
    methods = in_order(experiment.methods, own["method"])
    beside = [name for name in BESIDE if first and name in set(joined.frame["metric"])]
    scored = own["chance"].notna().any()
    reported = metric == experiment.metrics[0]
    names = list(dict.fromkeys(figure.name for figure in reproduction.published)) if reported else []
    keys = [word for word in joined.words if word != "method"]
    settings = plain(keys)
    plain_keys = [HEADINGS.get(name, name.replace("_", " ")) for name in beside]
    heads = short(settings, [*methods, *plain_keys, "seeds"])
    rows, matched = [], set[int]()
    groups = list(grouped(joined.frame, keys))
    for key, group in _spread(groups, keys):
        setting = dict(zip(settings, key, strict=True))
        of_metric = group[group["metric"] == metric]
        if looked_for(metric) and of_metric["mean"].isna().all():
            continue  # a fault that did nothing comes from nobody
        seeds = max(joined.sizes[row][1] for row in joined.sizes if _begins(joined.words, row, keys, key))
        cells = [*key, str(seeds), *(_beside(group, name) for name in beside)]
        for method in methods:
            here = records(of_metric[of_metric["method"] == method])
            cells.append(_cell(here[0], seeds) if here else MISSING)
        if scored:
            chance = of_metric["chance"].mean()
            cells.append(figure_of(metric, chance))
        for name in names:
            fitting = [
                at for at, figure in enumerate(reproduction.published) if figure.name == name and fits(figure, setting)
            ]
            matched.update(fitting)
            cells.append(figure_of(metric, reproduction.published[fitting[0]].value) if fitting else MISSING)
        rows.append(tuple(cells))
    width = len(keys) + 1 + len(beside) + len(methods) + int(scored)
    if reported:
        rows += _alone(reproduction.published, matched, settings, names, width, metric)
    headings = (*heads, "seeds", *plain_keys, *methods, *(["chance"] if scored else ()))
    return Table(
        name_of(metric).capitalize(), (*headings, *(f"published: {name}" for name in names)), tuple(rows), len(keys)
    )


def _alone(
    published: Sequence[PublishedFigure],
    matched: set[int],
    keys: Sequence[str],
    names: Sequence[str],
    width: int,
    metric: str,
) -> list[tuple[str, ...]]:
    """Rows for published settings that we have no run of."""
    settings: dict[tuple[str, ...], dict[str, float]] = {}
    for number, figure in enumerate(published):
        if number not in matched:
            settings.setdefault(tuple(figure.setting.get(key, MISSING) for key in keys), {})[figure.name] = figure.value
    return [
        (
            *setting,
            *[MISSING] * (width - len(keys)),
            *(figure_of(metric, values[name]) if name in values else MISSING for name in names),
        )
        for setting, values in settings.items()
    ]


def _begins(words: Sequence[str], whole: Sequence[str], keys: Sequence[str], key: Sequence[str]) -> bool:
    named = dict(zip(words, whole, strict=True))
    return all(named[word] == text for word, text in zip(keys, key, strict=True))


def _beside(group: pd.DataFrame, name: str) -> str:
    """A figure that all methods share, or share about: the number of inputs differs where one ranks fewer clients."""
    rows = group[group["metric"] == name]
    if rows.empty:
        return MISSING
    if name in POOLED_SUMS:
        return _total(records(rows)[0])
    return figure_of(name, float(rows["mean"].iloc[0]))


def _cell(record: Mapping[str, Any], seeds: int) -> str:
    """A metric of a method, its interval where there are seeds enough; inputs add up over them, clients are whole."""
    if record["metric"] in POOLED_SUMS:
        return _total(record)
    if record["metric"] in WHOLE and not math.isnan(record["mean"]):
        return f"{record['mean']:,.0f}"
    return cell(record, seeds, signed=False)


def _total(record: Mapping[str, Any]) -> str:
    return MISSING if math.isnan(record["mean"]) else f"{record['mean'] * record['count']:,.0f}"


def _spread(
    groups: list[tuple[tuple[str, ...], pd.DataFrame]], keys: Sequence[str]
) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Of many rounds a few, evenly spread, first and last among them; the CSV file has them all."""
    if "round" not in keys:
        return groups
    place = list(keys).index("round")
    rounds = sorted({int(key[place]) for key, _ in groups})
    if len(rounds) > ROUNDS_SHOWN:
        rounds = [rounds[at] for at in np.linspace(0, len(rounds) - 1, ROUNDS_SHOWN).round().astype(int)]
    return [group for group in groups if int(group[0][place]) in rounds]


def tidy(reproduction: Reproduction) -> pd.DataFrame:
    """One row for each setting, method and metric that was measured; published figures are methods of their own."""
    frame = tidy_csv(reproduction.joined)
    frame = frame[frame["mean"].notna()]
    counts = ["seeds", *(["round"] if "round" in frame else [])]
    rows = [
        {
            **figure.setting,
            "method": f"{PUBLISHED}{figure.name}",
            "metric": metric_of(figure.name, reproduction.experiment),
            "mean": figure.value,
        }
        for figure in reproduction.published
    ]
    frame = pd.concat([frame, pd.DataFrame(rows)], ignore_index=True) if rows else frame
    return frame.assign(**{name: frame[name].astype("Int64") for name in counts})  # whole where one is missing


def write_reproduction(folder: Path, reproduction: Reproduction, command: str) -> list[str]:
    """Write NAME.csv (tidy), NAME.md, NAME.tex, NAME.png and NAME.pdf; their names.

    Args:
        folder: where to.
        reproduction: what to write.
        command: what a reader types to get the same.

    Raises:
        RunError: a file cannot be written.
    """
    name = reproduction.experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / f"{name}.csv", tidy(reproduction))
    shown = tables(reproduction)
    notes = [line.strip() for line in _notes(reproduction)]
    text = "\n".join(f"- {line}" for line in notes)
    head = f"# {name}\n\n{reproduction.experiment.shows}\n\n```bash\n{command}\n```\n\n![{name}]({name}.png)\n\n"
    write_text(folder / f"{name}.md", head + to_markdown(shown, text))
    write_text(folder / f"{name}.tex", to_latex(shown, "; ".join(notes)))
    write_figure(folder, name, drawn(reproduction.experiment, tidy(reproduction)))
    return files_of(name)


def write_figure_again(folder: Path, experiment: Experiment, table: Path) -> list[str]:
    """Write NAME.png and NAME.pdf from a tidy CSV that is there; their names.

    Args:
        folder: where to.
        experiment: what the table is of.
        table: the CSV file, as `write_reproduction` leaves it.

    Raises:
        InputError: it is no such table.
        RunError: a file cannot be written.
    """
    made = drawn(experiment, read(table))
    folder.mkdir(parents=True, exist_ok=True)
    write_figure(folder, experiment.name, made)
    return [f"{experiment.name}.png", f"{experiment.name}.pdf"]


def files_of(name: str) -> list[str]:
    """The files of an experiment."""
    return [f"{name}.{end}" for end in ("md", "tex", "csv", "png", "pdf")]


def _notes(reproduction: Reproduction) -> Iterator[str]:
    shown = {"inputs", *BESIDE, *reproduction.experiment.metrics}
    yield from (line for line in below(reproduction.joined) if LARGEST in shown or not line.startswith("residual:"))
    if any(seeds > 1 for _, seeds in reproduction.joined.sizes.values()):
        yield "numbers of inputs: of all seeds together"
    if reproduction.experiment.note:
        yield reproduction.experiment.note
    if reproduction.experiment.published is not None:
        yield f"published: {reproduction.experiment.published['source']}"
