"""Small pieces of HTML for notebooks. Every text is escaped here: labels and texts come from data."""

from collections.abc import Iterable, Sequence
from html import escape

from .harmless import harmless_lines

STYLE = "text-align:right;padding:2px 10px;font-variant-numeric:tabular-nums"
BLUE, ORANGE = "#0072b2", "#d55e00"  # of Okabe and Ito: told apart by the colour-blind too


class Markup(str):
    """HTML that is safe to show as it is."""


def cell(value: object) -> Markup:
    """A value as HTML: `Markup` as it is, numbers to four digits, everything else escaped."""
    if isinstance(value, Markup):
        return value
    return Markup(escape(f"{value:.4g}" if isinstance(value, float) else harmless_lines(str(value))))


def bar(value: float, largest: float, width: int = 120) -> Markup:
    """A bar of `|value| / largest`, blue above 0, orange below."""
    length = round(width * min(abs(value) / largest, 1.0)) if largest > 0 else 0
    colour = BLUE if value >= 0 else ORANGE
    return Markup(f'<span style="display:inline-block;height:.8em;width:{length}px;background:{colour}"></span>')


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> Markup:
    """A table; the first column names its rows."""
    head = "".join(f'<th scope="col" style="{STYLE}">{cell(name)}</th>' for name in headings)
    body = "".join(
        "<tr>"
        + f'<th scope="row" style="{STYLE}">{cell(first)}</th>'
        + "".join(f'<td style="{STYLE}">{cell(value)}</td>' for value in rest)
        + "</tr>"
        for first, *rest in rows
    )
    title = f'<caption style="text-align:left">{cell(caption)}</caption>' if caption else ""
    return Markup(f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
