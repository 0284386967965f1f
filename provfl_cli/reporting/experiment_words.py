"""Words of an experiment's figure: what its axes are called, and the caption below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from ..comparison.curves import CLOSE, TIMES, Counted, Picture, coinciding, is_student, short_name
from ..comparison.reproduction import name_of
from ..config.schema import Experiment
from ..evaluation.intervals import FEWEST_SEEDS
from ..evaluation.ranges import range_of
from .figure_files import figure_text

STUDENT, WILSON = "95% t intervals over seeds", "95% Wilson intervals over seeds"
SETTINGS = {
    "partition.alpha": "Dirichlet alpha (small: clients differ much)",
    "partition.classes_per_client": "labels that a client holds",
    "federation.clients": "clients in the federation",
    "federation.clients_per_round": "clients in a round",
    "privacy.noise_multiplier": "noise multiplier (noise / clip norm)",
    "privacy.clip_norm": "clip norm",
    "provenance.layer_decay": "layer decay",
    "threshold": "activation threshold (null: off)",
    "attribution.gradient_neurons.fraction": "fraction of the neurons that is looked at",
    "injection.label": "exclusive label",
    "injection": "planted fault",
}
SHORT = {
    "spearman_counts": "correlation with label counts",
    "spearman_withhold": "correlation with withholding",
    "spearman_refuse": "correlation with fusing again",
    "duplicate_ties": "ties",
    "exclusive_accuracy": "the exclusive label",
    "seconds": "time",
    "ms_per_input": "time an input",
}
KINDS = {
    "inputs": "inputs",
    "fault_inputs": "inputs with the fault's mistake",
    "corrected_inputs": "inputs that are right without a faulty client",
    "exclusive_inputs": "inputs of the label",
    "caused_inputs": "inputs whose prediction the fault caused",
    "blamed_inputs": "mispredictions",
}


def axis_name(setting: str) -> str:
    """A setting as the name of an axis."""
    return SETTINGS.get(setting, short_name(setting))


def uneven(name: str) -> str:
    """The name of an axis on which values stand in even steps whatever their size."""
    return f"{name[:-1]}; steps not to scale)" if name.endswith(")") else f"{name} (steps not to scale)"


def group_name(keys: Sequence[str], values: Sequence[str]) -> str:
    """A combination of settings as the heading of its rows."""
    return ", ".join(
        f"{SETTINGS.get(key, short_name(key)).partition(' (')[0]}: {value}"
        for key, value in zip(keys, values, strict=True)
    )


def title_of(metric: str) -> str:
    """What a metric says, for people."""
    name = "global accuracy: the model is right" if metric == "global_accuracy" else name_of(metric)
    return name[:1].upper() + name[1:]


def short_title(metric: str) -> str:
    """A metric in a sentence."""
    return SHORT.get(metric, metric.replace("_", " "))


def unit_of(metric: str) -> str:
    """What a metric is counted in."""
    if metric in TIMES:
        return "ms an input" if metric == "ms_per_input" else "seconds"
    if metric.startswith(("spearman", "lds")):
        return "Spearman"
    return "share of inputs" if range_of(metric) == (0.0, 1.0) else ""


def caption(experiment: Experiment, drawn: Picture, dodged: bool, cut: bool) -> str:
    """What is shown, over how much, what the intervals are, and which curves hide one another.

    Args:
        experiment: what the figure is of.
        drawn: what is on it.
        dodged: marks of one value stand side by side.
        cut: some interval goes on beyond the scale.
    """
    sentences = [experiment.shows, _n(drawn), _intervals(drawn, cut), *_hidden(experiment, drawn)]
    if dodged:
        sentences.append("Marks side by side are of the same value on the axis.")
    if any(curve.rows["chance"].notna().any() for panel in drawn.panels for curve in panel.curves):
        sentences.append("Grey: chance.")
    if not experiment.x and any(panel.published for panel in drawn.panels):
        sentences.append("Hollow, names slanted: published.")
    return " ".join(sentences)


def lines(text: str, width: int) -> str:
    """A text as it may be drawn, in lines of at most so many characters."""
    return "\n".join(wrap(figure_text(text), width, break_on_hyphens=False))


def _n(drawn: Picture) -> str:
    said: dict[str, list[str]] = {}
    for metric, counted in drawn.counts.items():
        if metric != "global_accuracy":
            said.setdefault(_count(counted), []).append(short_title(metric))
    if len(said) == 1:
        return f"Each point: {next(iter(said))}."
    return " ".join(f"Each point of {_and(of)}: {count}." for count, of in said.items())


def _count(counted: Counted) -> str:
    seeds = f"{_range(counted.seeds)} seed{'s' * (counted.seeds[1] > 1)}"
    if counted.inputs is None:
        return seeds
    kind = KINDS.get(counted.kind, counted.kind.replace("_", " "))
    return f"{_range(counted.inputs)} {kind} of {seeds}"


def _range(numbers: tuple[int, int]) -> str:
    least, most = numbers
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _intervals(drawn: Picture, cut: bool) -> str:
    rows = [curve.rows for panel in drawn.panels for curve in panel.curves]
    if not any(own["low"].notna().any() for own in rows):
        return f"No intervals: fewer than {_word(FEWEST_SEEDS)} seeds."
    few = any((own["seeds"] < FEWEST_SEEDS).any() for own in rows)
    same = any((own["low"] == own["high"]).any() for own in rows)
    with_some = [panel for panel in drawn.panels if any(curve.rows["low"].notna().any() for curve in panel.curves)]
    kinds = dict.fromkeys((STUDENT if is_student(panel) else WILSON) for panel in with_some)
    parts = [f"{'Bands' if drawn.crowded else 'Bars'}: {' or '.join(kinds)}"]
    if few:
        parts.append(f"none for fewer than {_word(FEWEST_SEEDS)}")
    if cut:
        parts.append("cut where the scale ends" + ("" if drawn.crowded else " (no cap)"))
    if same:
        parts.append("of no width where all seeds agree")
    return f"{', '.join(parts)}."


def _word(number: int) -> str:
    return {2: "two", 3: "three", 4: "four", 5: "five"}.get(number, str(number))


def _hidden(experiment: Experiment, drawn: Picture) -> Iterator[str]:
    """Which curves lie on one another; they are named once for all panels in which they do.

    Where intervals are bands, marks do not stand side by side: there curves that lie so at half of the points are told.
    """
    if not experiment.x:
        return
    where: dict[str, dict[str, list[str]]] = {}
    for panel in drawn.panels:
        for found in coinciding(panel, experiment.x, least=0.5 if drawn.crowded else 1.0):
            how = "coincide" if found.equal else f"all but coincide (within {CLOSE:g})"
            at = "" if found.at == found.of else f" at {found.at} of {found.of} points"
            names = "All curves" if len(found.names) == len(panel.curves) > 2 else _and(found.names)
            places = where.setdefault(f"{names} {how}{at}", {})
            places.setdefault(short_title(panel.metric), []).append(str(panel.facet))
    columns = len(drawn.grid[0])
    for said, places in where.items():
        yield f"{said} in {_and([_place(*place, columns) for place in places.items()])}."


def _place(metric: str, facets: Sequence[str], columns: int) -> str:
    """A metric, and for which facets where these are not all."""
    return metric if len(facets) == columns else f"{metric} ({_and(facets)})"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
