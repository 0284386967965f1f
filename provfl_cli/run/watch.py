"""What training reports as it goes."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ..federation.events import (
    ClientFailed,
    ClientFinished,
    EngineStarting,
    Event,
    RoundFinished,
    RoundMissing,
    RoundsPlaced,
    RoundsReused,
    RoundStarted,
    TrainingEnded,
    WaitingForProcess,
)
from ..reporting.progress import RoundProgress
from ..results.files import write_jsonl
from ..store.rounds import Metrics
from ..trackers.tracking import Tracking
from .clearing import link_to
from .summary import round_rows


class Watch:
    """What training reports as it goes: display and tracker follow it, and the history is kept for the files."""

    def __init__(self, console: Console, live: Console, folder: Path, tracking: Tracking, generates: bool) -> None:
        self.console = console
        self.live = live  # where how far it is can be redrawn; a `console` that is quiet says no more
        self.folder = folder
        self.tracking = tracking
        self.generates = generates  # whether the model answers prompts
        self.progress = RoundProgress(live if live.is_interactive else console)
        self.history: list[Metrics] = []
        self.ended = TrainingEnded(0, 0.0, 0.0)

    def __call__(self, event: Event) -> None:
        """Take one event in."""
        match event:
            case RoundsPlaced():  # now, so that they can be watched
                link_to(self.folder, event.rounds)
            case RoundsReused():
                self.history = list(event.history)
                self.tracking.rounds(self.history)
                self.console.print(f"rounds 1 to {event.rounds}: in the cache, trained in {event.seconds:.1f} s")
            case RoundMissing():
                begin = f"round {event.start}" if event.start else "the start"
                self.console.print(f"round {event.number} was not kept: trained again from {begin}")
            case WaitingForProcess():
                self.live.print("another process trains the same federation: waiting for its rounds")
            case EngineStarting():
                log = os.path.relpath(event.log)
                self.console.print(Text(f"{event.told}; what it says itself is in {log}"))
            case RoundStarted():
                self.progress.round_started(event.number, event.rounds, len(event.clients))
            case ClientFinished():
                self.progress.client_finished()
            case ClientFailed():
                self.console.print(Text(f"{event.reason}: {'asked again' if event.again else 'dropped out'}"))
            case RoundFinished():
                self.history = [m for m in self.history if m.round != event.number] + [event.metrics]
                (latest,) = round_rows([event.metrics], self.generates)
                self.progress.round_finished(event.number, latest)
                ordered = sorted(self.history, key=lambda m: m.round)
                write_jsonl(self.folder / "metrics.jsonl", round_rows(ordered, self.generates))
                self.tracking.rounds([event.metrics])
            case TrainingEnded():
                self.ended = event
