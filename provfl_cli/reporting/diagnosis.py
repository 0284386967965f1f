"""A diagnosis for the terminal: the sentence first, then each suspect, then what it is compared with."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..results.diagnosis import Diagnosis, Suspect

OTHERS = 3  # clients that do not stand out, and are shown beside


def show(diagnosis: Diagnosis) -> RenderableType:
    """The whole answer."""
    parts: list[RenderableType] = [Text(diagnosis.sentence, style="bold"), Text()]
    if diagnosis.suspects:
        parts += [_suspects(diagnosis), Text()]
        for suspect in diagnosis.suspects:
            parts.append(Text(f"Client {called(suspect)}: {'; '.join(suspect.reasons)}"))
        parts.append(Text())
    if compared := _compared(diagnosis):
        parts += [Text(compared, style="dim")]
    parts += [Text(note, style="dim") for note in diagnosis.notes]
    return Group(*parts)


def called(suspect: Suspect) -> str:
    """What a suspect is called."""
    return suspect.name if suspect.name is not None else str(suspect.client)


def _suspects(diagnosis: Diagnosis) -> Table:
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, show_edge=False)
    several = any(suspect.since is not None for suspect in diagnosis.suspects)
    known = any(suspect.faulty is not None for suspect in diagnosis.suspects)
    made.add_column("stands out")
    for heading in ("z", "on top of", "right without", "wrong without"):
        made.add_column(heading, justify="right")
    if several:
        made.add_column("since round", justify="right")
    if known:
        made.add_column("planted")
    for suspect in diagnosis.suspects:
        cells: list[str | Text] = [
            Text(called(suspect), style="bold red"),
            f"{suspect.score:.1f}",
            f"{suspect.inputs:,}",
            _count(suspect.corrected),
            _count(suspect.broken),
        ]
        cells += [_count(suspect.since)] if several else []
        cells += [{True: "yes", False: "no", None: "–"}[suspect.faulty]] if known else []
        made.add_row(*cells)
    if len(diagnosis.suspects) > 1:
        together = ["all together", "", f"{sum(s.inputs for s in diagnosis.suspects):,}"]
        made.add_section()
        made.add_row(*together, _count(diagnosis.corrected), _count(diagnosis.broken))
    return made


def _count(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _compared(diagnosis: Diagnosis) -> str:
    """How near the others came."""
    accused = {suspect.client for suspect in diagnosis.suspects}
    nearest = dict[int, tuple[float, str, float]]()
    for score in diagnosis.scores:
        if score.z is None or score.client in accused or score.round != diagnosis.round:
            continue
        degree = score.z / score.threshold
        if degree > nearest.get(score.client, (0.0, "", 0.0))[0]:
            nearest[score.client] = (degree, score.score, score.z)
    first = sorted(nearest.items(), key=lambda pair: -pair[1][0])[:OTHERS]
    if not first:
        return ""
    said = ", ".join(f"client {client} ({name}, {degree:.0%})" for client, (degree, name, _) in first)
    others = "the nearest of the others" if accused else "the nearest"
    return f"{others}, in percent of what stands out: {said}"
