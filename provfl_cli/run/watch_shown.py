"""What is done with what is seen of a watched federation: the display, the lines, the page, the hook."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..evaluation.band import BandRound
from ..harmless import harmless_json
from ..reporting import watch as show
from ..results.files import plain, write_text
from .hook import call_hook
from .watched import Event, Over, Passed, Seen, Waiting

REFRESH = 5  # seconds after which the page is read again
PACE = 0.4  # seconds between two rounds that are gone through again in a terminal


class Shows:
    """Shows every event as it comes; a context manager, which gives the terminal back.

    Args:
        folder: what is watched.
        console: where people read; a table is drawn live where it is a terminal, else there is a line a round.
        say_json: takes a JSON object a round, as a line for stdout; the console is stderr then. None: nobody asks.
        page: where to write a page; None: nowhere.
        hook: the words of a command to call when a client leaves the band; (): none.
        slowly: waits between two rounds; None: nobody looks.
    """

    def __init__(
        self,
        folder: Path,
        console: Console,
        say_json: Callable[[str], None] | None,
        page: Path | None,
        hook: Sequence[str],
        slowly: Callable[[float], None] | None,
    ) -> None:
        self.folder, self.console, self.say_json, self.page, self.hook = folder, console, say_json, page, hook
        self.slowly = slowly
        self.rounds: list[BandRound] = []
        self.names: dict[int, str] = {}
        self.lines: list[str] = []
        self._waited = False
        draws = console.is_terminal and say_json is None
        self._live = Live(show.table([], {}), console=console, refresh_per_second=4) if draws else None

    def __enter__(self) -> Shows:
        if self._live is not None:
            self._live.start()
        self._write_page(REFRESH)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if kind is not None:
            self._write_page(None)

    def take(self, event: Event) -> None:
        """Take one event in."""
        match event:
            case Seen():
                self._seen(event)
            case Passed():
                several = event.upto > event.number
                which = f"rounds {event.number} to {event.upto}" if several else f"round {event.number}"
                self._say(f"{which}: not looked at: {event.reason}", style="yellow")
            case Waiting():
                if not event.rounds and not self._waited:
                    self._say(f"{self.folder}: no round yet: waiting", style="dim")
                self._waited = True
            case Over():
                self.end(event.reason)

    def end(self, reason: str) -> None:
        """Say the verdict, and why nothing more comes."""
        self._say(f"{show.verdict(self.rounds, self.names)} ({reason})", style="bold", kept=False)
        self._write_page(None)

    def _seen(self, seen: Seen) -> None:
        self.rounds.append(seen.band)
        self.names |= seen.names
        if self.say_json is not None:
            line = show.record(self.rounds, self.names, seen.left, seen.back)
            self.say_json(harmless_json(json.dumps(plain(line), ensure_ascii=False)))
        elif self._live is None:
            self._say(show.summary(seen.band, self.names), kept=False)
        for client in seen.left:
            self._say(show.leaving(seen.band, client, self.names), style="bold red")
        for client in seen.back:
            self._say(show.returning(seen.band, client, self.names), style="green")
        if self._live is not None:
            self._live.update(show.table(self.rounds, self.names), refresh=True)
        self._write_page(REFRESH)
        for client in seen.left:
            self._call(seen.band, client)
        if self.slowly is not None and self._live is not None:
            self.slowly(PACE)

    def _call(self, band: BandRound, client: int) -> None:
        if not self.hook:
            return
        about = {"folder": str(self.folder), "round": band.number, **show.about(band, client, self.names)}
        failed = call_hook(self.hook, about)
        if failed is not None:
            self._say(f"--exec for client {client} in round {band.number} failed: {failed}", style="yellow")

    def _say(self, line: str, style: str = "", kept: bool = True) -> None:
        if kept:
            self.lines.append(line)
        self.console.print(Text(line, style=style), soft_wrap=True)

    def _write_page(self, refresh: int | None) -> None:
        if self.page is not None:
            title = f"provfl watch {self.folder}"
            write_text(self.page, show.page(title, self.rounds, self.names, self.lines, refresh))
