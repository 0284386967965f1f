"""The localization tables: which columns, how they are written, and the same for Markdown and LaTeX."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..harmless import harmless, harmless_lines
from .table import ABSENT, Table
from .truth_tables import truth_tables

if TYPE_CHECKING:
    import pandas as pd

Column = tuple[str, str, Callable[[float], str]]  # key in the frame, heading, how a value is written


def _share(value: float) -> str:
    return f"{value:.3f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


HOLDERS: tuple[Column, ...] = (
    ("inputs", "inputs", _whole),
    ("localization_accuracy", "accuracy", _share),
    ("chance_accuracy", "chance", _share),
    ("chance_corrected", "corrected", _share),
    ("best_constant", "best constant", _share),
    ("majority_accuracy", "majority", _share),
    ("majority_chance", "chance", _share),
)
RANKING: tuple[Column, ...] = (
    ("ndcg", "NDCG", _share),
    ("ndcg_chance", "chance", _share),
    ("spearman_counts", "Spearman", _share),
    ("tie_rate", "ties", _share),
    ("gap", "gap", _share),
)
FAULTS: tuple[Column, ...] = (
    ("fault_inputs", "inputs", _whole),
    ("fault_share", "of all", _share),
    ("fault_accuracy", "accuracy", _share),
    ("fault_chance", "chance", _share),
    ("corrected_inputs", "corrected", _whole),
    ("corrected_accuracy", "their accuracy", _share),
    ("attack_success", "backdoor works", _share),
    ("attack_success_untriggered", "without trigger", _share),
)
HITS: tuple[Column, ...] = (
    ("hit@3", "hit@3", _share),
    ("hit@3_chance", "chance", _share),
    ("hit@5", "hit@5", _share),
    ("hit@5_chance", "chance", _share),
)
PLANTED: tuple[Column, ...] = (
    ("exclusive_inputs", "exclusive label: inputs", _whole),
    ("exclusive_accuracy", "accuracy", _share),
    ("exclusive_chance", "chance", _share),
    ("free_rider_top", "free rider on top", _share),
    ("free_rider_chance", "chance", _share),
    ("duplicate_ties", "duplicates tied", _share),
)
EFFECTS: tuple[Column, ...] = (
    ("spearman_withhold", "Spearman, withheld", _share),
    ("spearman_refuse", "Spearman, fused without it", _share),
)
RESPONSES: tuple[Column, ...] = (
    ("said_inputs", "responses", _whole),
    ("owner_top1", "owner on top", _share),
    ("owner_top1_chance", "chance", _share),
    ("owners_found", "all owners first", _share),
    ("owners_found_chance", "chance", _share),
    ("owner_auroc", "AUROC", _share),
    ("owner_share", "owners' part", _share),
    ("other_share", "others'", _share),
)
TOKENS: tuple[Column, ...] = (
    ("tokens", "tokens", _whole),
    ("token_top1", "owner on top", _share),
    ("token_top1_chance", "chance", _share),
    ("span_top1", "of planted ones", _share),
    ("rest_top1", "of the others", _share),
    ("span_precision", "planted where on top", _share),
    ("span_precision_chance", "chance", _share),
    ("span_auroc", "AUROC", _share),
)
BLAMED: tuple[Column, ...] = (
    ("blamed_inputs", "inputs", _whole),
    ("named_most", "most named", _share),
    ("stated_clients", "stated", _whole),
    ("stated_fpr", "others stated", _share),
    ("stated_fnr", "planted missed", _share),
    ("blamed_auroc", "AUROC", _share),
)
BLAMED_TITLE = "Mispredictions: which clients are on top significantly often (stated)?"
COUNTS = ("exclusive_inputs",)  # say nothing alone


def localization_tables(frame: pd.DataFrame, truth: pd.DataFrame | None = None) -> list[Table]:
    """From the rows of `localization.csv`: faults where any were looked for, the ranking, label holders last.

    A column that the file has not is left out, and a table of which none is there.

    Args:
        frame: the rows.
        truth: those of `retraining.csv` for the last round, whose tables come first; None: nothing was retrained.
    """
    tables = [] if truth is None or not len(frame) else truth_tables(truth[truth["round"] == frame["round"].max()])
    if "fault_inputs" in frame and (frame["fault_inputs"] > 0).any():
        faults, title = _there(FAULTS, frame), "Planted faults: is the top client faulty?"
        if any(key == "corrected_inputs" for key, *_ in faults):
            title += " (corrected: right once one is left out)"
        tables.append(_table(title, faults, frame))
        if hits := _columns(HITS, frame):
            tables.append(_table("Planted faults: is one of the top 3 (5) faulty?", hits, frame))
    planted = _there(PLANTED, frame)
    if any(key not in COUNTS for key, *_ in planted):
        tables.append(_table("Planted clients: is their part seen?", planted, frame))
    if "blamed_inputs" in frame and (frame["blamed_inputs"] > 0).any():
        tables.append(_table(BLAMED_TITLE, _there(BLAMED, frame), frame))
    for title, columns in (
        ("Responses that say what was asked for: is a client on top that was taught it?", RESPONSES),
        ("Their tokens: is such a client on top of each?", TOKENS),
    ):
        if columns[0][0] in frame and (frame[columns[0][0]] > 0).any():
            measured = frame[frame[columns[0][0]] > 0]
            tables.append(_table(title, _there(columns, measured), measured))
    if effects := _there(EFFECTS, frame):
        tables.append(_table("Same-round fusion: does it follow fusing again without a client? (0)", effects, frame))
    for title, columns in (
        ("Ranking: does it follow how many examples of the label clients have?", RANKING),
        ("Localization (saturates): is the top client a holder of the label?", HOLDERS),
    ):
        if there := _columns(columns, frame):
            tables.append(_table(title, there, frame))
    return tables


def _columns(columns: Sequence[Column], frame: pd.DataFrame) -> list[Column]:
    """Columns that the frame has."""
    return [column for column in columns if column[0] in frame]


def _there(columns: Sequence[Column], frame: pd.DataFrame) -> list[Column]:
    """Columns that were measured for some row."""
    return [column for column in _columns(columns, frame) if frame[column[0]].notna().any()]


def _table(title: str, columns: Sequence[Column], frame: pd.DataFrame) -> Table:
    """The scope is a column where there is more than one."""
    words = ("method", "scope") if frame["scope"].nunique() > 1 else ("method",)
    headings = (*words, "round", *(heading for _, heading, _ in columns))
    rows = []
    for row in frame.to_dict("records"):
        cells = (ABSENT if math.isnan(row[key]) else write(row[key]) for key, _, write in columns)
        rows.append((*(str(row[word]) for word in words), str(row["round"]), *cells))
    return Table(title, headings, tuple(rows), len(words))


def cost_table(seconds: Mapping[tuple[str, str], float], inputs: int) -> Table:
    """What each method, by name and scope, took for the `inputs` of a round."""
    several = len({scope for _, scope in seconds}) > 1
    rows = (
        (name, *([scope] if several else []), f"{inputs:,}", f"{took:.2f}", f"{1000 * took / max(inputs, 1):,.1f}")
        for (name, scope), took in seconds.items()
    )
    words = ("method", "scope") if several else ("method",)
    return Table("Time to attribute", (*words, "inputs", "seconds", "ms an input"), tuple(rows), len(words))


def to_markdown(tables: Sequence[Table], note: str) -> str:
    """The tables one below the other, then `note` (where the data came from)."""
    parts = []
    for table in tables:
        rule = [":--" if i < table.words else "--:" for i in range(len(table.headings))]
        lines = [table.headings, tuple(rule), *table.rows]
        body = "\n".join("| " + " | ".join(map(markdown_cell, line)) + " |" for line in lines)
        parts.append(f"**{_without_tags(harmless(table.title))}**\n\n{body}\n")
    return "\n".join([*parts, f"{_without_tags(harmless_lines(note))}\n"])


def markdown_cell(text: str) -> str:
    """`text` in one cell of a Markdown table: nothing in it ends the cell, is a link, a picture or HTML."""
    kept = harmless(text).replace("\\", "\\\\").replace("|", "\\|")
    return _without_tags(kept)


def _without_tags(text: str) -> str:
    """Markdown without HTML, links and pictures; a lone < or [ stays as it is."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text).replace("](", "]\\(")


def to_latex(tables: Sequence[Table], note: str) -> str:
    """The tables as `tabular` with booktabs rules, then `note`; to be read in with `\\input`."""
    parts = ["% \\usepackage{booktabs}"]
    for table in tables:
        kinds = "l" * table.words + "r" * (len(table.headings) - table.words)
        lines = [" & ".join(escape(cell) for cell in row) + r" \\" for row in (table.headings, *table.rows)]
        parts += [
            f"% {harmless(table.title)}",
            f"\\begin{{tabular}}{{{kinds}}}",
            "\\toprule",
            lines[0],
            "\\midrule",
            *lines[1:],
            "\\bottomrule",
            "\\end{tabular}",
            "",
        ]
    return "\n".join([*parts, f"\\par\\smallskip{{\\footnotesize {escape(note)}}}", ""])


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "…": r"\ldots{}",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"{{{character}}}" for character in "[*"},  # behind a line's end they would be an argument of it
    **{character: "\\" + character for character in "&%$#_{}"},
    **dict.fromkeys(map(chr, (*range(0x2400, 0x2422), 0xFFFD)), "?"),
}


def escape(text: str) -> str:
    """`text` so that LaTeX prints it as it is; for control characters, which no font has, a question mark."""
    return "".join(_LATEX.get(character, character) for character in harmless(text))
