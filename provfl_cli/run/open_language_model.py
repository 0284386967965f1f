"""A federation of language models that others trained, opened to ask about responses: rounds, model, tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config.validate import provenance_preset
from ..data.template import Codec
from ..data.tokenizer import chat_of, own
from ..errors import InputError, RunError
from ..fusion.privacy import NoPrivacy
from ..models.causal import ResponseModel
from ..models.network import most_positions
from ..provenance.outputs import Inputs as NamedInputs
from ..provenance.shared_part import fitted
from ..store.matching_tensors import check_tensors
from ..store.rounds import read_round, stored_rounds
from .device import device_like
from .inputs import TracedInputs
from .open_recording import recorded_fusion
from .open_run import OpenFederation
from .place import require_recorded
from .prompts import Prompt, own_prompt
from .recorded_model import language_network, most_tokens

MOST_TOKENS = 2048  # of prompt and response together, where a model says nothing or more


@dataclass(frozen=True)
class RecordedPrompts:
    """Prompts to a recorded model: the user's own. `note` says how they are read."""

    codec: Codec
    note: str

    def own(self, text: str) -> Prompt:
        """As the model's tokenizer and chat template have it."""
        return own_prompt(text, self.codec, (self.note,))

    def first(self, number: int) -> Prompt:
        """Refused: there are none."""
        raise InputError("--prompt: a recorded federation brings no prompts: --prompt TEXT")

    def numbered(self, index: int) -> Prompt:
        """Refused: there are none."""
        raise InputError(f"--input {index}: a recorded federation brings no prompts: --prompt TEXT")

    def topic_of(self, response: str) -> int | None:
        """None: the data are not known."""
        return None


class NoInputs:
    """A recorded model that answers has no inputs but prompts."""

    def first(self, number: int) -> TracedInputs:
        """Refused."""
        raise InputError("--prompt: is missing")

    def numbered(self, index: int) -> TracedInputs:
        """Refused."""
        raise InputError(f"--input {index}: a recorded federation brings no prompts: --prompt TEXT")

    def picture(self, file: Path) -> TracedInputs:
        """Refused."""
        raise InputError(f"--image {file}: this model reads prompts: --prompt TEXT")

    def text(self, text: str) -> TracedInputs:
        """Refused."""
        raise InputError("--text: this model answers prompts: --prompt TEXT")

    def many(self, path: Path) -> TracedInputs:
        """Refused."""
        raise InputError(f"--inputs {path}: prompts are asked about one at a time: --prompt TEXT")

    def at_hand(self, number: int) -> NamedInputs | None:
        """None."""
        return None


def open_language_model(folder: Path, spec: str) -> OpenFederation:
    """Open a recorded federation whose model answers prompts.

    Args:
        folder: with `rounds/` and `recorded.json`.
        spec: `hf:FOLDER_OR_ID`, or `peft:FOLDER` of adapters; the tokenizer lies there too.

    Raises:
        InputError: model, tokenizer or rounds do not fit each other; or the folder holds links to other places.
        RunError: a file of it is damaged.
    """
    recorded = require_recorded(folder)
    last = read_round(folder / "rounds", stored_rounds(folder / "rounds")[-1])
    check_tensors(last)
    network, places = language_network(spec, last.weights())
    prompts = _prompts(spec, places, most_positions(network))
    model = ResponseModel(network, prompts.codec.padding, prompts.codec.end)
    model.requires_grad_(True)
    fitted(model, last, f"--model {spec}", "the rounds")
    known = most_tokens(network)
    if prompts.codec.end >= known:
        raise InputError(
            f"--model {spec}: its tokenizer ends responses with token {prompts.codec.end:,}, and the model "
            f"reads {known:,}: they do not belong together"
        )
    return OpenFederation(
        folder=folder,
        model=model,
        form=None,
        inputs=NoInputs(),
        label_names=(),
        client_names=recorded.clients,
        examples=recorded.examples,
        label_counts={},
        faulty=(),
        provenance=provenance_preset("provfl"),
        rivals=(),
        rounds_traced=(),
        fusion=recorded_fusion(folder, recorded),
        privacy=NoPrivacy(),
        seed=0,
        device=device_like("auto"),
        prompts=prompts,
    )


def _prompts(spec: str, places: Sequence[Path], positions: int | None) -> RecordedPrompts:
    """By the tokenizer in the first of the folders that holds one."""
    longest = min(positions or MOST_TOKENS, MOST_TOKENS)
    errors = []
    for place in places:
        try:
            tokenizer = own(place, longest)
            template, said = chat_of(place)
            codec = Codec(tokenizer, template, longest)
        except (InputError, RunError) as error:
            errors.append(str(error).partition(": ")[2] or str(error))
            continue
        return RecordedPrompts(codec, f"prompts are read by the tokenizer in {place}, {said}")
    raise InputError(f"--model {spec}: {errors[0]}")
