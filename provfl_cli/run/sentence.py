"""The sentence that a diagnosis begins with, everywhere."""

from __future__ import annotations

from ..results.diagnosis import Diagnosis, Suspect

SHOWN = 4  # clients that are named one by one


def counted(count: int, noun: str) -> str:
    """So many of something."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def sentence_of(diagnosis: Diagnosis, noun: str, compared: bool) -> str:
    """Who it is, for how much, and what is without them: plain text.

    Args:
        diagnosis: all but its sentence.
        noun: what one of the predictions asked about is called.
        compared: whether there were clients enough to compare.
    """
    if not diagnosis.suspects:
        return _nobody(diagnosis, noun, compared)
    named = _named(diagnosis.suspects)
    several = len(diagnosis.suspects) > 1
    behind = min(sum(suspect.inputs for suspect in diagnosis.suspects), diagnosis.inputs)
    if not diagnosis.inputs:
        begins = f"{named} {'stand' if several else 'stands'} out, though there is no {noun}"
    elif behind * 2 >= diagnosis.inputs:
        begins = f"{named} {'are' if several else 'is'} behind {_part(behind, diagnosis)}"
    else:
        verb = ("stand out, but are", "stands out, but is")[not several]
        begins = f"{named} {verb} behind {_part(behind, diagnosis)}"
    return f"{begins}; {_without(diagnosis)}." if _without(diagnosis) else f"{begins}."


def _part(behind: int, diagnosis: Diagnosis) -> str:
    if diagnosis.inputs == 1:
        return f"{'' if behind else 'no part of '}the {diagnosis.question.removeprefix('1 ')}"
    return f"{behind:,} of {diagnosis.question}"


def _named(suspects: tuple[Suspect, ...]) -> str:
    names = [suspect.name or str(suspect.client) for suspect in sorted(suspects, key=lambda each: each.client)]
    if len(names) == 1:
        return f"Client {names[0]}"
    if len(names) > SHOWN:
        return f"Clients {', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"
    return f"Clients {', '.join(names[:-1])} and {names[-1]}"


def _without(diagnosis: Diagnosis) -> str:
    """What is without the suspects, fused again."""
    them = "it" if len(diagnosis.suspects) == 1 else "them"
    said = ""
    if diagnosis.corrected is not None:
        one = diagnosis.corrected == 1
        said = f"without {them} {diagnosis.corrected:,} of them {'is' if one else 'are'} right"
        if diagnosis.inputs == 1:
            said = f"without {them} it is {'right' if one else 'still wrong'}"
    elif diagnosis.changed is not None and diagnosis.inputs:
        said = f"without {them} {diagnosis.changed:,} of {diagnosis.inputs:,} are predicted otherwise"
    if diagnosis.broken is not None:
        change = counted(diagnosis.broken, "right one") + (
            " becomes wrong" if diagnosis.broken == 1 else " become wrong"
        )
        other = "nothing else changes" if not diagnosis.broken else change
        said = f"{said} and {other}" if said else f"without {them} {other}"
    if diagnosis.accuracy_before is not None and diagnosis.accuracy_after is not None:
        said += f" (accuracy {diagnosis.accuracy_before:.2f} → {diagnosis.accuracy_after:.2f})"
    return said


def _nobody(diagnosis: Diagnosis, noun: str, compared: bool) -> str:
    who = f"among {counted(diagnosis.clients, 'client')}"
    begins = f"Nobody stands out {who}" if compared else f"Nobody can be told apart {who}, which are too few to compare"
    if not diagnosis.inputs:
        return f"{begins}, and there is no {noun} to explain."
    if not diagnosis.tops:
        return f"{begins}."
    if diagnosis.inputs == 1:
        client = max(diagnosis.tops, key=lambda each: (diagnosis.tops or {})[each])
        return f"{begins}; client {client} pushed the {diagnosis.question.removeprefix('1 ')} the most."
    client, tops = max(diagnosis.tops.items(), key=lambda pair: (pair[1], -pair[0]))
    return f"{begins}; client {client} is on top of the most: {tops:,} of {diagnosis.question}."
