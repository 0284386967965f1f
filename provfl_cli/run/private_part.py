"""Whose model is traced where clients keep part of it for themselves, and that part put into it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import InputError, RunError
from ..federation.key import digest
from ..federation.participation import Roster
from ..federation.private import private_folder, read_private
from ..federation.sharing import Sharing
from ..provenance.shared_part import load_part
from ..results.checksums import BASE
from ..store.rounds import Round
from ..store.tensorfile import open_tensors


def check_client(named: int | None, sharing: Sharing, examples: Mapping[int, int]) -> None:
    """Raise InputError where `evaluation.client` names no client that was kept, or nothing is private to any."""
    if named is None:
        return
    if not sharing.private:
        raise InputError(
            f"evaluation.client={named}: nothing of the model is private to a client: leave it out, or "
            "federation.share=body"
        )
    if named not in examples:
        kept = ", ".join(map(str, examples))
        raise InputError(f"evaluation.client={named}: was left out by the partition, there are {kept}")


def complete(model: nn.Module, stored: Round, sharing: Sharing, named: int | None, examples: Mapping[int, int]) -> str:
    """Put what a client keeps for itself after a round into the model; returns a sentence that says whose model it is.

    The others' private parts are not in the trace at all.

    Args:
        model: with the tensors of the round.
        stored: the round.
        sharing: what is private.
        named: the client whose part is wanted (`evaluation.client`); None: see `completing`.
        examples: of every client, by its number.

    Raises:
        RunError: the client's part is not there.
    """
    if not sharing.private:
        return ""
    client, own = completing(stored, named, examples)
    load_part(model, {name: own[name] for name in sharing.private})
    count = len(sharing.private)
    return (
        f"the model traced is that of client {client}: {count} tensor{'s' if count > 1 else ''} of it are private, "
        "nobody else contributed to them, and the accuracy is the mean over the clients' own models by examples"
    )


def to_complete(
    sharing: Sharing, named: int | None, examples: Mapping[int, int], roster: Sequence[Roster], wanted: Collection[int]
) -> dict[int, int]:
    """Who will complete the model after each of the `wanted` rounds, as far as can be said before; {}: nobody.

    As `completing`, where nobody fails to return its work. `examples` are of the clients in the order of positions.
    """
    if not sharing.private:
        return {}
    ids, found = list(examples), dict[int, int]()
    ranked = [named] if named is not None else sorted(ids, key=lambda client: -examples[client])
    for number in wanted:
        trained = {ids[participant.position] for members in roster[:number] for participant in members.trained}
        found[number] = next(client for client in ranked if client in trained or client == named)
    return found


def completing(stored: Round, named: int | None, examples: Mapping[int, int]) -> tuple[int, Mapping[str, Tensor]]:
    """The client whose private part completes the model after a round, and that part.

    Without a client that is named it is the one with the most examples of those that have trained, the first of
    several: a prediction is made by some client's own model, and this one knows its data best.

    Raises:
        RunError: the client's part is not there.
    """
    folder = private_folder(stored.folder.resolve().parent.parent, stored.number)
    ranked = [named] if named is not None else sorted(examples, key=lambda client: -examples[client])
    for client in ranked:
        own = read_private(folder, client)
        if own is not None:
            return client, own
    who = "any client" if named is None else f"client {named}"
    raise RunError(
        f"{folder}: holds nothing private of {who} after round {stored.number}: it stays with the training cache, "
        "the same provfl run makes it again"
    )


def frozen_tensors(model: nn.Module, sharing: Sharing) -> dict[str, Tensor]:
    """The tensors that nobody trains, by name."""
    tensors = model.state_dict()
    return {name: tensors[name].detach().cpu().clone() for name in sharing.frozen}


def load_base(folder: Path, model: nn.Module, sharing: Sharing) -> None:
    """Put what stayed of a base model into `model`, where the run in `folder` has made one.

    Raises:
        RunError: the file is damaged, or of another model.
    """
    if not (folder / BASE).is_file():
        return
    stored, own = open_tensors(folder / BASE), model.state_dict()
    fits = set(stored) == set(sharing.frozen) and all(stored[name].shape == own[name].shape for name in stored)
    if not fits:
        raise RunError(f"{folder / BASE} is of another model than the run's")
    model.load_state_dict(dict(stored), strict=False)


def frozen_digest(model: nn.Module, sharing: Sharing) -> str | None:
    """A digest of the frozen tensors, by which a model built again is known to be the same; None where none are."""
    tensors: Mapping[str, Tensor] = model.state_dict()
    return digest((name, tensors[name]) for name in sharing.frozen) if sharing.frozen else None


def check_frozen(folder: Path, model: nn.Module, sharing: Sharing, described: Mapping[str, Any]) -> None:
    """Raise RunError unless what nobody trained is in the model as it was in the run, whose manifest describes it."""
    if sharing.frozen and frozen_digest(model, sharing) != described.get("frozen_sha256"):
        drawn = str(described.get("weights", "")).startswith("drawn")
        hint = "the same provfl run again" if drawn else "--checkpoint DIR with the weights that it started from"
        raise RunError(f"{folder}: the frozen weights of its model, which no round holds, are not at hand: {hint}")
