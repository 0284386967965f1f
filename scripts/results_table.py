"""Fill in the figures of the table of results (outputs/paper/README.md) from the CSV files beside it.

Which rows there are, and what each says in words (experiment, question, metric, method, rival), is written by hand;
the figures are not: run this after an experiment was made again. A row is of the round, unless it says `scope=lineage`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).resolve().parent.parent / "outputs" / "paper"
NONE = "–"


def main() -> None:
    """Write the page again where a figure has changed."""
    page = RESULTS / "README.md"
    lines = page.read_text(encoding="utf-8").splitlines()
    page.write_text("\n".join(map(filled, lines)) + "\n", encoding="utf-8")


def filled(line: str) -> str:
    """A line of the page: a row of the table with the figures of its CSV file, any other as it is."""
    name = re.match(r"\| \[`(\w+)`\]\(\1\.md\) \|", line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if name is None or len(cells) != 10:
        return line
    link, question, metric, method, _, _, rival, _, _, _ = cells
    frame = pd.read_csv(RESULTS / f"{name[1]}.csv")
    wanted = dict(pair.split("=") for pair in re.findall(r"`(\S+=\S+)`", question))
    if "scope" in frame:
        scope = frame["scope"].isna() | (frame["scope"] == wanted.pop("scope", "round"))  # none: published figures
        frame = frame[scope]
    for key, value in wanted.items():
        frame = frame[frame[key].astype(str) == value]
    of_metric = frame[frame["metric"] == metric.strip("`")]
    ours = of_metric[of_metric["method"] == method.strip("`")]
    largest = frame[(frame["metric"] == "majority_accuracy") & (frame["method"] == method.strip("`"))]["mean"]
    label = re.match(r"`(\w+)`", rival)
    beside = f"`{label[1]}` {spread(of_metric[of_metric['method'] == label[1]]['mean'])}" if label else NONE
    theirs = of_metric[of_metric["method"].str.startswith("published: ")]
    theirs = theirs[~theirs["method"].str.contains("FedDebug")]["mean"]
    strict = spread(largest) if metric == "`localization_accuracy`" else NONE
    figures = [spread(ours["mean"]), strict, beside, spread(ours["chance"]), spread(theirs), spread(ours["seeds"], "d")]
    return "| " + " | ".join([link, question, metric, method, *figures]) + " |"


def spread(values: pd.Series[float], kind: str = ".2f") -> str:
    """The least and the largest of some figures, one where these look alike."""
    values = values.dropna()
    if values.empty:
        return NONE
    least, most = (format(int(value) if kind == "d" else value, kind) for value in (values.min(), values.max()))
    return least if least == most else f"{least} to {most}"


if __name__ == "__main__":
    main()
