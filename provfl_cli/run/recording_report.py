"""A recorded federation as `provfl report` shows it: the given inputs, traced in its rounds as `provfl trace` does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from ..pixels import png
from ..provenance.contributions import Contributions
from ..results.folders import IDENTITY, RunFolder
from ..results.frames import layer_frame
from ..results.run import RunContents, read_traces
from ..store.recorded import RecordedFederation, read_whole
from ..store.rounds import Round
from .inputs import UNKNOWN, TracedInputs
from .open_run import OpenFederation
from .query import AttributedPredictions, Query, ask

RECORDERS = {
    "import": "provfl import",
    "flower": "Flower's ProvenanceStrategy",
    "nvflare": "NVFlare's ProvenanceRecorder",
}


def reported(
    opened: OpenFederation,
    numbers: Sequence[int],
    inputs: TracedInputs,
    model: str,
    data: str,
    target: str | None = None,
) -> RunContents:
    """Trace `inputs` in the rounds of these numbers, ascending, of which there is at least one.

    Args:
        opened: a recorded federation.
        numbers: of stored rounds.
        inputs: what to trace.
        model, data: what the user called them.
        target: what is explained; None: the predicted class, or what the federation was opened for.

    Raises:
        InputError: a round that there is not.
        RunError: a stored file is damaged, or conservation fails.
    """
    recorded = read_whole(opened.folder)
    assert recorded is not None
    own = opened.provenance.name
    rows, history = list[pd.DataFrame](), list[dict[str, float]]()
    for number in numbers:
        asked = ask(opened, number, inputs, Query(target=target))
        rows.append(asked.attributions.rows)
        history += _measured(asked, inputs)
    last, stored = asked.attributions.traces[own, "round"], asked.stored
    contributions = pd.concat(rows, ignore_index=True)
    rounds = [opened.round(number) for number in opened.rounds]
    took_part = [client for stored_round in rounds for client in stored_round.clients]
    names = {client: opened.name_of(client) for client in took_part} | dict(opened.client_names)
    return RunContents(
        run=RunFolder(
            folder=opened.folder,
            settings={},
            following=frozenset(),
            chosen={},
            overridden=frozenset(),
            scores=pd.DataFrame(columns=list(IDENTITY)),
            figures={
                "method": own,
                "global_accuracy": history[-1]["accuracy"] if history else None,
                "conservation_residual": float(last.residuals.max()),
                "covered": last.covered,
            },
            accuracy={int(row["round"]): row["accuracy"] for row in history},
        ),
        manifest=_as_written(recorded),
        history=history,
        labels=opened.label_names,
        clients={client: opened.examples.get(client, 0) for client in sorted(names)},
        faulty=(),
        counts=None,
        contributions=contributions,
        inputs=_inputs(opened, stored.number, asked, inputs),
        layers=layer_frame(stored.number, inputs.numbers, last),
        participation=_participation(rounds),
        traces=read_traces(contributions, own),
        notes=tuple(_notes(opened, inputs, last)),
        warnings=last.warnings,
        names=names,
        recorded=_facts(opened, recorded, numbers, inputs, model, data),
        explains=opened.meaning.kind,
    )


def _measured(asked: AttributedPredictions, inputs: TracedInputs) -> list[dict[str, float]]:
    """A round's accuracy and mean cross entropy on the inputs whose label is known; none where that is none of them."""
    known = inputs.labels != UNKNOWN
    if not known.any():
        return []
    probabilities, labels = asked.probabilities[known], inputs.labels[known]
    of_label = probabilities[np.arange(len(labels)), labels]
    return [
        {
            "round": asked.stored.number,
            "accuracy": float((probabilities.argmax(1) == labels).mean()),
            "loss": float(-np.log(np.maximum(of_label, np.finfo(float).tiny)).mean()),
            "clients": len(asked.stored.clients),
        }
    ]


def _inputs(opened: OpenFederation, number: int, asked: AttributedPredictions, inputs: TracedInputs) -> pd.DataFrame:
    """What the inputs are, and what the model made of them in that round."""
    frame = pd.DataFrame({"round": number, "input": inputs.numbers})
    if opened.meaning.target is None:
        frame["prediction"] = asked.probabilities.argmax(1)
        frame["probabilities"] = list(asked.probabilities)
    else:
        frame["value"] = asked.probabilities[np.arange(len(frame)), asked.case.classes]
    pictures = [png(picture) for picture in inputs.shown if isinstance(picture, np.ndarray)]
    if len(pictures) == len(inputs.shown):
        frame["picture"] = pictures
    elif any(isinstance(text, str) for text in inputs.shown):
        frame["text"] = pd.Series(["" if text is None else text for text in inputs.shown], dtype="str")
    return frame


def _participation(rounds: Sequence[Round]) -> pd.DataFrame:
    """Who returned a model in each round, and who was asked and did not."""
    took = [
        (stored_round.number, client, status)
        for stored_round in rounds
        for status, clients in (("trained", stored_round.clients), ("dropped", stored_round.metrics.failed))
        for client in clients
    ]
    return pd.DataFrame(took, columns=["round", "client", "status"])


def _as_written(recorded: RecordedFederation) -> dict[str, object]:
    return {
        "source": recorded.source,
        "fusion": list(recorded.fusion),
        "labels": list(recorded.labels),
        "clients": {str(number): name for number, name in recorded.clients.items()},
        "examples": {str(number): count for number, count in recorded.examples.items()},
    }


def _facts(
    opened: OpenFederation,
    recorded: RecordedFederation,
    numbers: Sequence[int],
    inputs: TracedInputs,
    model: str,
    data: str,
) -> list[tuple[str, str]]:
    count = len(inputs.numbers)
    return [
        ("recorded by", RECORDERS.get(recorded.source, recorded.source)),
        ("model", model),
        ("inputs", f"{data} ({count:,})"),
        ("clients", f"{len(recorded.clients):,}"),
        ("rounds", _ranges(opened.rounds)),
        ("fusion", " ".join(recorded.fusion) or "recorded by what it did, not by name"),
        ("traced", f"{count:,} prediction{'s' * (count > 1)} of round{'s' * (len(numbers) > 1)} {_ranges(numbers)} "
                   f"by {opened.provenance.name}"),
    ]  # fmt: skip


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers, neighbours joined: `1 to 3, 7`."""
    ends = list[list[int]]()
    for number in numbers:
        if ends and number == ends[-1][-1] + 1:
            ends[-1] = [ends[-1][0], number]
        else:
            ends.append([number])
    return ", ".join(" to ".join(map(str, end)) for end in ends)


def _notes(opened: OpenFederation, inputs: TracedInputs, last: Contributions) -> Iterator[str]:
    """What a reader has to know."""
    yield from inputs.notes
    if opened.meaning.target is not None:
        name = opened.label_names[opened.meaning.number or 0]
        yield f"explained is {name} of each input, a number: who pushed it up has a positive contribution"
    unknown = int((inputs.labels == UNKNOWN).sum())
    if unknown and opened.meaning.target is None:
        which = "the inputs" if unknown == len(inputs.labels) else f"{unknown:,} of the {len(inputs.labels):,} inputs"
        yield f"the true labels of {which} are not known: whether their predictions are right is not said"
    if unused := int((~last.candidates).sum()):
        yield f"{unused} client{'s' * (unused > 1)} that fusion did not use in the last round are not ranked there"
