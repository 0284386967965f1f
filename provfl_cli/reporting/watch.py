"""How far out the clients of a watched federation are, over rounds: a table for the terminal, lines, JSON, a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..evaluation.band import BandRound, Reason
from ..harmless import harmless, harmless_lines

ROUNDS, CLIENTS, NAME, REASONS = 9, 20, 20, 3  # of the table in the terminal: columns, rows, a name's letters, reasons
PAGE_ROUNDS, PAGE_CLIENTS, PAGE_LINES = 60, 200, 100
NEAR = 0.7  # of the band's width: shown as near its edge
ABOUT = "how far out: 1 is the edge of the band; from the others of the round, or from the client's own rounds before"
STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
h1{font-size:1.4rem;margin:0}.said{font-size:1.1rem;margin:.5rem 0 1rem}.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .5rem;text-align:right;white-space:nowrap}th[scope=row]{text-align:left}
.out{background:#d55e00;color:#fff;font-weight:bold}.near{background:#f0e442;color:#000}.none{opacity:.4}
.about,ol{opacity:.8;font-size:.9rem}
"""


def called(client: int, names: Mapping[int, str]) -> str:
    """What a client is called in a sentence."""
    name = names.get(client, "")
    return f"client {client}" if name in ("", str(client)) else harmless(name)


def said(reason: Reason) -> str:
    """Why a client is out, in a few words."""
    return (
        f"{reason.score} {_number(reason.value)}, {abs(reason.z):.0f} standard deviations from {reason.against} "
        f"({_number(reason.usual)})"
    )


def leaving(band: BandRound, client: int, names: Mapping[int, str]) -> str:
    """The line that says that a client leaves the band."""
    return f"round {band.number}: {called(client, names)} leaves the band: {said(band.reason(client))}"


def returning(band: BandRound, client: int, names: Mapping[int, str]) -> str:
    """The line that says that it is back."""
    return f"round {band.number}: {called(client, names)} is back in the band"


def summary(band: BandRound, names: Mapping[int, str]) -> str:
    """One line a round, where nothing can be drawn."""
    if not band.clients:
        return f"round {band.number}: nobody took part"
    if not band.settled:
        return f"round {band.number}: {len(band.clients)} clients, too early to tell"
    if band.out:
        who = ", ".join(called(client, names) for client in band.out)
        return f"round {band.number}: {len(band.clients)} clients, out of the band: {who}"
    at = int(band.degrees.argmax())
    nearest = called(band.clients[at], names)
    return (
        f"round {band.number}: {len(band.clients)} clients, all in the band (nearest to its edge: {nearest}, "
        f"{band.degrees[at]:.2f} of it)"
    )


def verdict(rounds: Sequence[BandRound], names: Mapping[int, str]) -> str:
    """What has been seen so far, in a sentence."""
    if not rounds:
        return "no round yet"
    latest = rounds[-1]
    if latest.out:
        told = [f"{called(client, names)} since round {since(rounds, client)}" for client in latest.out]
        return f"round {latest.number}: out of the band: {', '.join(told)}"
    earlier = sorted({client for band in rounds for client in band.out})
    if earlier:
        were = ", ".join(called(client, names) for client in earlier)
        return f"round {latest.number}: all in the band; out in earlier rounds: {were}"
    few = "" if latest.settled else ", though it is too early to tell"
    return f"round {latest.number}: all in the band, in {len(rounds)} round{'s' * (len(rounds) > 1)}{few}"


def since(rounds: Sequence[BandRound], client: int) -> int | None:
    """The first of the rounds, up to the latest, in all of which a client was out when it took part; None: it is in."""
    first = None
    for band in reversed(rounds):
        if client in band.clients:
            if client not in band.out:
                break
            first = band.number
    return first


def record(
    rounds: Sequence[BandRound], names: Mapping[int, str], left: Sequence[int], back: Sequence[int]
) -> dict[str, Any]:
    """The latest round as one JSON object: who is out, and how far out each client is."""
    band = rounds[-1]
    return {
        "round": band.number,
        "settled": band.settled,
        "out": [{**about(band, client, names), "since": since(rounds, client)} for client in band.out],
        "left": list(left),
        "back": list(back),
        "clients": [about(band, client, names) for client in band.clients],
    }


def table(rounds: Sequence[BandRound], names: Mapping[int, str]) -> RenderableType:
    """The clients that have been farthest out, the last rounds as columns."""
    shown = rounds[-ROUNDS:]
    if not shown:
        return Text("no round yet", style="dim")
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False, show_edge=False)
    drawn.add_column("round", no_wrap=True, max_width=NAME)
    for band in shown:
        drawn.add_column(str(band.number), justify="right", no_wrap=True)
    ranked = _ranked(shown)
    for client in ranked[:CLIENTS]:
        cells = [_cell(band, client) for band in shown]
        drawn.add_row(Text(called(client, names)), *cells)
    more = [Text(f"… and {len(ranked) - CLIENTS} clients nearer the middle", style="dim")]
    latest = rounds[-1]
    why = [Text(f"{called(client, names)}: {said(latest.reason(client))}") for client in latest.out[:REASONS]]
    parts: list[RenderableType] = [drawn, *(more if len(ranked) > CLIENTS else []), Text(ABOUT, style="dim"), *why]
    return Group(*parts, Text(verdict(rounds, names), style="bold red" if latest.out else "bold"))


def page(
    title: str, rounds: Sequence[BandRound], names: Mapping[int, str], lines: Sequence[str], refresh: int | None
) -> str:
    """The same as a page that needs nothing from anywhere and has no script.

    Args:
        title: what is watched.
        rounds: those so far.
        names: of the clients.
        lines: what was said, in order.
        refresh: seconds after which a browser reads it from disk again; None: it is final.
    """
    shown = rounds[-PAGE_ROUNDS:]
    ranked = _ranked(shown)[:PAGE_CLIENTS] if shown else []
    head = "".join(f'<th scope="col">{band.number}</th>' for band in shown)
    rows = "".join(
        f'<tr><th scope="row">{_text(called(client, names))}</th>{"".join(_td(band, client) for band in shown)}</tr>'
        for client in ranked
    )
    told = "".join(f"<li>{_text(line)}</li>" for line in reversed(lines[-PAGE_LINES:]))
    again = "" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">'
    state = "it has ended" if refresh is None else f"read again from disk every {refresh} s"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{again}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{_text(verdict(rounds, names))}</title><style>{STYLE}</style></head><body>"
        f'<h1>Who leaves the band?</h1><p class="said">{_text(verdict(rounds, names))}</p>'
        f'<div class="wide"><table><thead><tr><th scope="row">round</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f'<p class="about">{_text(ABOUT)}. {_text(title)}; {state}.</p><ol reversed>{told}</ol></body></html>\n'
    )


def about(band: BandRound, client: int, names: Mapping[int, str]) -> dict[str, Any]:
    """How far out a client is in a round, and by what: plain values for JSON."""
    reason = band.reason(client)
    return {
        "client": client,
        "name": names.get(client),
        "degree": round(float(band.degrees[band.clients.index(client)]), 4),
        "score": reason.score,
        "value": reason.value,
        "usual": reason.usual,
        "z": reason.z,
        "against": "federation" if reason.against == "the others" else "own",
    }


def _ranked(rounds: Sequence[BandRound]) -> list[int]:
    """Clients of these rounds, those out in the latest first, then by how far out they have been."""
    far = dict[int, float]()
    for band in rounds:
        for client, degree in zip(band.clients, band.degrees.tolist(), strict=True):
            far[client] = max(far.get(client, 0.0), degree)
    return sorted(far, key=lambda client: (client not in rounds[-1].out, -far[client], client))


def _degree(band: BandRound, client: int) -> float | None:
    return float(band.degrees[band.clients.index(client)]) if client in band.clients else None


def _cell(band: BandRound, client: int) -> Text:
    degree = _degree(band, client)
    if degree is None:
        return Text("·", style="dim")
    style = "bold red" if client in band.out else ("yellow" if degree > NEAR else "")
    return Text(_degree_text(degree), style=style)


def _td(band: BandRound, client: int) -> str:
    degree = _degree(band, client)
    if degree is None:
        return '<td class="none">·</td>'
    kind = "out" if client in band.out else ("near" if degree > NEAR else "")
    return f"<td{f' class={kind}' if kind else ''}>{_degree_text(degree)}</td>"


def _degree_text(degree: float) -> str:
    return f"{degree:.1f}" if degree < 99.95 else ">99"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _text(text: str) -> str:
    return escape(harmless_lines(text))
