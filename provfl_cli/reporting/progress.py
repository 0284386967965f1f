"""One progress display for rounds and the clients in them: two live lines on a terminal, a few plain ones elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

LONG = 60.0  # seconds without a word, where nothing can be redrawn
PLAIN_LINES = 10  # at most about so many where nothing can be redrawn


class RoundProgress:
    """Shows how far training is. No thread starts before the first `round_started`: workers are forked until then.

    Use it as a context manager, or call `close` at the end; closing wipes the live lines.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._live: Progress | None = None
        self._bars: tuple[TaskID, TaskID] | None = None
        self._began: float | None = None
        self._skipped = 0.0  # rounds done before this display began: a resumed run
        self._number = self._total = self._clients = self._finished = 0
        self._latest = ""

    def __enter__(self) -> RoundProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def round_started(self, number: int, total: int, clients: int) -> None:
        """Round `number` (from 1) of `total` begins with so many clients."""
        self._number, self._total, self._clients, self._finished = number, total, clients, 0
        if self._began is None:
            self._began, self._skipped = self._clock(), float(number - 1)
            if self._console.is_interactive:
                self._live = Progress(
                    TextColumn("{task.description}", style="bold"),
                    BarColumn(bar_width=24),
                    TextColumn("{task.fields[count]}", justify="right"),
                    TextColumn("{task.fields[detail]}", style="dim"),
                    console=self._console,
                    transient=True,
                )
                self._bars = (
                    self._live.add_task("Round", count="", detail=""),
                    self._live.add_task("Clients", count="", detail=""),
                )
                self._live.start()
        self._show()

    def client_finished(self) -> None:
        """One more client of this round has returned its model."""
        self._finished += 1
        self._show()

    def round_finished(self, number: int, metrics: Mapping[str, float]) -> None:
        """Round `number` is fused and evaluated; `metrics` holds `loss` and `accuracy`, of answers `perplexity` too."""
        self._number, self._finished = number, 0
        if "perplexity" in metrics:
            self._latest = f"exact match {metrics['accuracy']:.3f}, perplexity {metrics['perplexity']:.4g}"
        else:
            self._latest = f"accuracy {metrics['accuracy']:.3f}, loss {metrics['loss']:.3f}"
        self._show(done=float(number))
        if self._live is None:
            every = max(1, -(-self._total // PLAIN_LINES))
            if number % every == 0 or number == self._total:
                left = f", about {_spell(self._left(number))}" if number < self._total else ""
                self._console.print(Text(f"round {number} of {self._total}: {self._latest}{left}"))

    def close(self) -> None:
        """Stop drawing; may be called twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show(self, done: float | None = None) -> None:
        if self._live is None or self._bars is None:
            return
        if done is None:
            done = self._number - 1 + self._finished / max(self._clients, 1)
        rounds, clients = self._bars
        left = self._left(done)
        self._live.update(
            rounds,
            total=self._total,
            completed=done,
            count=f"{self._number}/{self._total}",
            detail=", ".join(part for part in (_spell(left), self._latest) if part),
        )
        self._live.update(
            clients, total=self._clients, completed=self._finished, count=f"{self._finished}/{self._clients}"
        )

    def _left(self, done: float) -> float | None:
        """Seconds left if the rest goes as what this display has seen; None before there is anything to go by."""
        here = done - self._skipped
        if self._began is None or here <= 0:
            return None
        return (self._clock() - self._began) / here * (self._total - done)


def _spell(seconds: float | None) -> str:
    return "" if seconds is None else f"{timedelta(seconds=round(seconds))} left"


class RetrainingProgress:
    """Shows how many federations have been trained again: a live line on a terminal, a few plain ones elsewhere.

    Use it as a context manager. No thread starts before the first `finished`: workers are forked until then.
    """

    def __init__(self, console: Console, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._total, self._clock = console, total, clock
        self._began = clock()
        self._done = self._trained = 0
        self._live: Progress | None = None
        self._bar: TaskID | None = None

    def __enter__(self) -> RetrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def finished(self, accuracy: float, trained: bool) -> None:
        """One more is there, of this accuracy (NaN: none); `trained` just now, rather than found in the cache."""
        self._done += 1
        self._trained += trained
        found = "cannot be trained" if math.isnan(accuracy) else f"accuracy {accuracy:.3f}"
        said = ", ".join(part for part in (_spell(self._left()), found) if part)
        if self._console.is_interactive:
            self._show(said)
            return
        every = max(1, -(-self._total // PLAIN_LINES))
        if self._done % every == 0 or self._done == self._total:
            self._console.print(Text(f"{self._done} of {self._total} trained again: {said}"))

    def _show(self, said: str) -> None:
        if self._live is None:
            self._live = Progress(
                TextColumn("Federations", style="bold"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[count]}", justify="right"),
                TextColumn("{task.fields[detail]}", style="dim"),
                console=self._console,
                transient=True,
            )
            self._bar = self._live.add_task("", total=self._total, count="", detail="")
            self._live.start()
        assert self._bar is not None
        self._live.update(self._bar, completed=self._done, count=f"{self._done}/{self._total}", detail=said)

    def _left(self) -> float | None:
        """Seconds left if the rest takes as long as what was trained here; None where nothing was, or is left."""
        if not self._trained or self._done == self._total:
            return None
        return (self._clock() - self._began) / self._trained * (self._total - self._done)


class TraceProgress:
    """Shows how far tracing is: a live line on a terminal, elsewhere plain ones where it takes long.

    Use it as a context manager, and call it after each batch. It starts no thread: a trace forks workers at any time.
    """

    def __init__(
        self, console: Console, traces: int = 1, doing: str = "Tracing", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._traces, self._doing, self._clock = console, traces, doing, clock
        self._began = self._told = clock()
        self._ended = 0  # traces
        self._latest = 0  # inputs of the present one
        self._live: Progress | None = None
        self._bar: TaskID | None = None

    def __enter__(self) -> TraceProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, done: int, total: int) -> None:
        """So many of the `total` inputs of the present trace are there; fewer than before: the next trace has begun."""
        if done <= self._latest:  # also where conservation is checked once more
            self._ended = min(self._ended + 1, self._traces - 1)
        self._latest = done
        share = (self._ended + done / total) / self._traces
        left = _spell((self._clock() - self._began) / share * (1 - share)) if share < 1 else ""
        said = f"{done:,} of {total:,} inputs"
        if self._console.is_interactive:
            self._show(share, said, left)
        elif self._clock() - self._told > LONG:
            self._told = self._clock()
            self._console.print(Text(f"{self._doing.lower()}: {', '.join(part for part in (said, left) if part)}"))

    def _show(self, share: float, said: str, left: str) -> None:
        if self._live is None:
            self._live = Progress(
                TextColumn("{task.description}", style="bold"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[count]}", justify="right"),
                TextColumn("{task.fields[detail]}", style="dim"),
                console=self._console,
                transient=True,
                auto_refresh=False,
            )
            self._bar = self._live.add_task(self._doing, total=1.0, count="", detail="")
            self._live.start()
        assert self._bar is not None
        self._live.update(self._bar, completed=share, count=said, detail=left, refresh=True)
