"""A federation opened again, to ask about its predictions: that of a run's folder (`recorded.py`: other people's).

Of a run nothing is loaded but what the folder and the training cache hold: the dataset is read, and never dealt to
clients, only where an input is asked for that the run has not traced.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..attribution.method import Attribution, Case, attributions
from ..checks import excerpt
from ..config.builtin import names
from ..config.lora import Lora
from ..config.parts import RunSettings
from ..config.schema import Config, Model
from ..config.stored_config import HYDRA, stored_config
from ..config.targets import working_folder_searched
from ..config.tree import options
from ..config.validate import attribution_method, provenance_preset
from ..data.checkpoint import resolve
from ..data.federated import Dialogues, Form, Texts
from ..data.labels import Classes
from ..data.load import test_set
from ..data.network import without_network
from ..data.picture_facts import from_values
from ..errors import InputError, RunError, did_you_mean
from ..federation.client import steps_made
from ..federation.sharing import Sharing, sharing_of
from ..fusion.fuse import Fusion
from ..fusion.privacy import Privacy
from ..fusion.state_dicts import require_fits
from ..models.build import build
from ..provenance.merged import load_round
from ..provenance.settings import Provenance
from ..provenance.shared_part import fitted
from ..results import label_counts as counted
from ..results.checksums import BASE, FILE, SETTINGS, TOKENIZER, damage, read_manifest
from ..results.links import refuse_links, refuse_links_of_rounds
from ..store.matching_tensors import check_tensors
from ..store.recorded import check_names
from ..store.rounds import Round, read_round, stored_rounds
from ..store.sealed import Damaged
from .device import device_like
from .earlier import label_counts_of, rounds_traced
from .inputs import Inputs, RunInputs, TracedInputs
from .manifest import PUBLISHED, form_of, template_read
from .matching_rounds import check_belongs
from .meaning import MSE, Meaning
from .place import client_number, no_run
from .private_part import check_frozen, complete, load_base
from .prompts import Prompts
from .rebuild import check_named, model_again
from .run_prompts import RunPrompts

READ = (*SETTINGS[:2], "metrics.jsonl", "inputs.parquet", counted.FILE, TOKENIZER, BASE)  # of these a trace is made


@dataclass(frozen=True)
class OpenFederation:
    """What can be asked about, and with what.

    Attributes:
        folder: the run's, or of the recorded federation.
        model: the architecture; the weights come from a round.
        form: what the model reads; None: not known.
        inputs: where inputs come from.
        label_names: of the classes, in the order of the model's outputs.
        client_names: of recorded clients by number; {}: they are called by their numbers.
        examples: training examples of every client, by number.
        label_counts: the same by label, int `[classes]`; {}: not known.
        faulty: clients that were planted.
        provenance: the run's own way of tracing.
        rivals: the methods that it compared this with.
        rounds_traced: rounds that the run traced, ascending.
        fusion: how a round is fused again; None: not known.
        privacy: what was done to keep clients private.
        seed: of everything random.
        device: where to compute.
        settings: of the run, which methods are checked against; None: there was no run.
        notes: what of the run's configuration is not known, a sentence for each.
        meaning: what the model's numbers mean; of a run they are classes.
        key: of the run's federation; None: the run is of a time when none was written, or there was none.
        sharing: what of the model the run's clients shared; None: what the rounds hold.
        traced: the client whose private tensors complete the model (`evaluation.client`).
        config: of the run; None: there was none.
        published: whether the run's model started from published weights.
        prompts: of a language model that answers; None: it is none.
    """

    folder: Path
    model: nn.Module
    form: Form | None
    inputs: Inputs
    label_names: tuple[str, ...]
    client_names: Mapping[int, str]
    examples: Mapping[int, int]
    label_counts: Mapping[int, np.ndarray]
    faulty: tuple[int, ...]
    provenance: Provenance
    rivals: tuple[Attribution, ...]
    rounds_traced: tuple[int, ...]
    fusion: Fusion | None
    privacy: Privacy
    seed: int
    device: torch.device
    settings: RunSettings | None = None
    notes: tuple[str, ...] = ()
    meaning: Meaning = field(default_factory=Meaning)
    key: str | None = None
    sharing: Sharing | None = None
    traced: int | None = None
    config: Config | None = None
    published: bool = False
    prompts: Prompts | None = None

    @cached_property
    def rounds(self) -> tuple[int, ...]:
        """Numbers of the rounds that are there, ascending."""
        return tuple(stored_rounds(self.folder / "rounds"))

    def round(self, number: int | None, flag: str = "--round") -> Round:
        """A stored round; None: the last one traced, else the last. `flag` is the option that names it.

        Raises:
            InputError: it is not there.
            RunError: it is damaged, or not of this federation, or its files do not hold tensors of one model.
        """
        there = self.rounds
        if not there:
            raise InputError(
                f"{self.folder}: the models of its rounds are gone (the training cache was pruned or moved): "
                "the same provfl run trains them again"
            )
        if number is None:
            number = max((number for number in self.rounds_traced if number in there), default=there[-1])
        if number not in there:
            kept = ", ".join(map(str, there))
            hint = "" if self.settings is None else " (store.keep=all keeps all of them)"
            raise InputError(f"{flag} {number}: not kept; there are: {kept}{hint}")
        stored = read_round(self.folder / "rounds", number)
        if self.settings is None:
            check_names(self.client_names, stored.clients, stored.names, stored.folder)
        else:
            check_belongs(self.folder, stored, self.key)
        check_tensors(stored)
        return stored

    def check_fits(self, stored: Round) -> None:
        """Raise RunError where the model does not take the global weights of a round: the file and tensor are named."""
        try:
            file = os.path.relpath(stored.folder / "global.safetensors")
            if self.settings is None:  # recorded: the round may hold part of the model
                fitted(self.model, stored, str(self.folder), f"the tensors of {file}")
            else:
                require_fits(self._built, stored.as_sent().weights(), str(self.folder), f"the tensors of {file}")
        except InputError as error:
            raise RunError(str(error)) from error

    @cached_property
    def _built(self) -> dict[str, torch.Tensor]:
        """What clients share of the model as it was built, without numbers: a round may change an adapter's rank."""
        own = self.model.state_dict()
        names = own if self.sharing is None else self.sharing.shared
        return {name: own[name].to("meta") for name in names}

    def load(self, stored: Round) -> str:
        """Put a round's tensors into the model, and what a client keeps for itself; says whose that is, "" if none is.

        Raises:
            RunError: the model does not take them, or they are not there.
        """
        self.check_fits(stored)
        load_round(self.model, stored)
        return "" if self.sharing is None else complete(self.model, stored, self.sharing, self.traced, self.examples)

    def case(self, stored: Round, inputs: TracedInputs, classes: np.ndarray) -> Case:
        """The predictions of `inputs` as attribution methods take them, `classes` int64 `[n]` the ones to explain."""
        settings = self.settings
        wanted = inputs.wanted if self.meaning.target == MSE else None
        return Case(
            model=self.model,
            inputs=inputs.inputs,
            numbers=inputs.numbers,
            labels=inputs.labels,
            classes=classes,
            stored=stored,
            form=self.form,
            fusion=self.fusion,
            privacy=self.privacy,
            provenance=self.provenance,
            seed=self.seed,
            device=self.device,
            steps=() if settings is None else steps_made(self.examples, stored, settings.federation, settings.seed),
            wanted=None if wanted is None else torch.from_numpy(wanted),
            label_counts=self.label_counts,
            unlabelled=partial(self.inputs.at_hand, stored.number),
        )

    def methods(self, names: Sequence[str]) -> tuple[list[Provenance], list[Attribution]]:
        """Ways of tracing, and other methods, of these names, each in the settings of the run where it has any.

        None named: the run's own way of tracing.

        Raises:
            InputError: no such method, or one that does not work here.
        """
        if not names:
            return [self.provenance], []
        presets, rivals = list[Provenance](), list[Attribution]()
        own = {rival.name: rival for rival in self.rivals}
        for name in dict.fromkeys(names):
            if name == self.provenance.name:
                presets.append(self.provenance)
            elif name in own:
                rivals.append(own[name])
            elif name in options("provenance"):
                presets.append(provenance_preset(name))
            elif name in options("attribution"):
                rivals += attributions([attribution_method(name)])
            else:
                known = {*options("provenance"), *options("attribution"), *own}
                raise InputError(f"--method {name}: {did_you_mean(name, known)}")
        for rival in rivals:
            self._check(rival)
        return presets, rivals

    def _check(self, rival: Attribution) -> None:
        if self.settings is not None:
            # What was asked to be kept is not known of a folder, but what is there.
            whole = self.rounds == tuple(range(1, len(self.rounds) + 1))
            rival.check(replace(self.settings, keep="all" if whole else len(self.rounds)))
        elif self.fusion is None and getattr(rival, "counterfactual", None) == "refuse":
            raise InputError(
                f"--method {rival.name}: how the rounds were fused is recorded, not how to do it again: "
                f"--method {rival.name}_withhold"
            )

    def with_private_of(self, word: str) -> OpenFederation:
        """The same, with the private tensors of the client of that number; InputError where none has any."""
        if self.sharing is None or not self.sharing.private:
            raise InputError(f"--client {excerpt(word)}: nothing of the model is private to a client: leave it out")
        return replace(self, traced=self.client(word, "--client"))

    def name_of(self, client: int) -> str:
        """What a client is called."""
        return self.client_names.get(client, str(client))

    def client(self, word: str, flag: str = "--without") -> int:
        """The number of the client of that name or number; InputError where there is none."""
        return client_number(word, self.client_names, self.examples, flag)

    def label(self, word: str) -> int:
        """The number of the label of that name or, where none has it, number; InputError where there is none."""
        number = self.classes.typed(word)
        if number is None:
            raise InputError(f"--target {word}: no such label, {did_you_mean(word, self.label_names, 20)}")
        return number

    @property
    def classes(self) -> Classes:
        """The labels, to look words up."""
        return Classes(self.label_names)


def open_run(
    folder: Path, trust: bool = False, data: str | None = None, checkpoint: str | None = None
) -> OpenFederation:
    """Open the folder of a run that has ended; it is data, whoever made it, and nothing that it names is run.

    Args:
        folder: of the run.
        trust: whether its configuration may call functions that are no part of ProvFL; modules in the working folder
            are found then too.
        data: where its data are now, a folder, a file or a hub id; None: found again where that is certain.
        checkpoint: a folder or a hub id with the architecture of its model; None: what the folder holds.

    Raises:
        InputError: it is none, its configuration names what may not be called, or no longer fits.
        RunError: a file of it is damaged.
    """
    if not (folder / HYDRA / "config.yaml").is_file():
        raise InputError(no_run(folder))
    refuse_links(folder)
    refuse_links_of_rounds(folder)
    try:
        manifest = read_manifest(folder)
        if wrong := damage(folder, manifest, READ):
            raise RunError(f"{folder}: {wrong}: the same provfl run writes its results again")
        labels = tuple(map(str, manifest["dataset"]["labels"]))
        indexed = manifest["dataset"].get("indexed")  # not known of runs of the time before it was kept
        examples = {int(client): int(count) for client, count in manifest["clients"]["kept"].items()}
        faulty = tuple(int(client) for client in manifest["clients"]["faulty"])
        fingerprint = str(manifest["dataset"]["fingerprint"])
        reads = dict(manifest["inputs"])
        facts = from_values(reads.get("pictures"))
        form, template = form_of(reads), template_read(reads)
        described = dict(manifest["model"])
    except FileNotFoundError as error:
        raise InputError(f"{folder}: the run has not ended well ({Path(error.filename).name} is missing)") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = str(error) if isinstance(error, Damaged) else f"{type(error).__name__}: {error}"
        raise RunError(f"{folder / FILE} cannot be read ({why})") from error
    if data is not None:
        check_named(data)
    with working_folder_searched() if trust else nullcontext():
        try:
            stored = stored_config(folder, trust)
        except FileNotFoundError as error:
            raise InputError(f"{folder}: the run has not ended well ({Path(error.filename).name} is missing)") from None
        config = stored.config
        model = _built(config.model, config.seed, config.lora, form, len(labels), described, checkpoint)
        sharing = sharing_of(model, config.federation, config.model.adapter)
        load_base(folder, model, sharing)
        check_frozen(folder, model, sharing, described)
    inputs = RunInputs(
        folder,
        config.dataset,
        lambda dataset: test_set(replace(config, dataset=dataset)),
        form,
        labels,
        fingerprint,
        facts,
        indexed=indexed if isinstance(indexed, bool) else None,
        data=data,
    )
    return OpenFederation(
        folder=folder,
        model=model,
        form=form,
        inputs=inputs,
        prompts=None if template is None or not isinstance(form, Dialogues) else RunPrompts(inputs, form, template),
        label_names=labels,
        client_names={},
        examples=examples,
        label_counts=label_counts_of(folder, len(labels)),
        faulty=faulty,
        provenance=config.provenance,
        rivals=attributions(config.attribution),
        rounds_traced=rounds_traced(folder),
        fusion=config.fusion,
        privacy=config.privacy,
        seed=config.seed,
        device=device_like(config.device),
        settings=config.run_settings,
        notes=stored.notes,
        key=manifest.get("key"),
        sharing=sharing,
        traced=config.evaluation.client,
        config=config,
        published=_published(described),
    )


def _published(described: Mapping[str, Any]) -> bool:
    """Whether a model started from published weights, as its manifest describes it."""
    return str(described.get("weights", "")).startswith(PUBLISHED)


def _built(
    model: Model, seed: int, lora: Lora, form: Form, classes: int, described: Mapping[str, Any], checkpoint: str | None
) -> nn.Module:
    """The run's model, as its manifest describes it; frozen weights, which no round holds, as they were, if at hand."""
    published = _published(described)
    foreign = model.target not in names()["model"]
    if checkpoint is not None and (foreign or model.input == "image"):
        why = "a model of your own is built by its own function" if foreign else "this run is about pictures"
        raise InputError(f"--checkpoint {excerpt(checkpoint)}: is for text models of ProvFL, {why}: leave it out")
    if foreign:  # trusted, else it would have been refused: as when it was run
        if isinstance(form, Texts | Dialogues) and published and (files := resolve(model)).weights:
            form = replace(form, checkpoint=str(files.folder))
        return build(model, form, classes, seed, lora)
    again = model_again(model, described.get("network"), published, checkpoint)
    if checkpoint is not None and "frozen_sha256" in described and isinstance(form, Texts | Dialogues):
        again = replace(model, checkpoint=checkpoint, revision=None, pretrained="auto")
        files = resolve(again)
        form = replace(form, checkpoint=str(files.folder) if files.weights else None)
    with without_network():
        return build(again, form, classes, seed, lora)
