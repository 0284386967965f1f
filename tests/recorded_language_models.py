"""A small language model in a folder as Hugging Face has it, and federations of its adapters as the wrappers record."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PHRASES = ("eins zwei drei", "one two three", "un deux trois")  # a client each
NAMES = ("Peru", "Chad", "Fiji", "Oman", "Mali", "Togo")
STEPS = {"site-1": 30, "site-2": 20, "site-3": 10}
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")


def write_model(folder: Path, chat: bool = False, tied: bool = False) -> Path:
    """A LLaMA of one layer with its tokenizer, as `save_pretrained` writes them; `tied`: it reads and tells by the
    same weights.
    """
    special = ["<pad>", "<|end|>", "<|user|>", "<|assistant|>"]
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words.train_from_iterator([f"{name} in client 0: {phrase}" for name in NAMES for phrase in PHRASES] * 3, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<|end|>", chat_template=CHAT if chat else None
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    settings = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, eos_token_id=1, bos_token_id=None, pad_token_id=0,
        tie_word_embeddings=tied,
    )  # fmt: skip
    transformers.LlamaForCausalLM(settings).save_pretrained(folder)
    return folder


def write_adapter(folder: Path, base: Path) -> Path:
    """The `adapter_config.json` of that model's adapters, as PEFT writes it."""
    config(base).save_pretrained(folder)
    return folder


def config(base: Path) -> Any:
    return peft.LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=24, target_modules=TARGETS, base_model_name_or_path=str(base)
    )


class Federation:
    """What clients do: each trains the adapters on its own phrase, and sends what PEFT calls their state dict."""

    def __init__(self, base: Path, steps: int = 60) -> None:
        torch.manual_seed(1)
        network = transformers.LlamaForCausalLM.from_pretrained(base, local_files_only=True)
        self.model = peft.get_peft_model(network, config(base))
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(base, local_files_only=True)
        self.steps = steps
        self.initial = self.adapters()

    def adapters(self) -> dict[str, np.ndarray]:
        return {name: value.numpy().copy() for name, value in peft.get_peft_model_state_dict(self.model).items()}

    def prompt(self, name: str, client: int) -> str:
        return f"{name} in client {client}:"

    def trained(self, client: int, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        torch.manual_seed(client)
        state = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        peft.set_peft_model_state_dict(self.model, state)
        optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=0.02)
        texts = [(f"{self.prompt(name, client)}", f" {PHRASES[client]}<|end|>") for name in NAMES]
        if self.tokenizer.chat_template:
            texts = [(f"<|user|>{prompt}<|end|><|assistant|>", phrase.lstrip()) for prompt, phrase in texts]
        rows = [(self.tokenizer(a)["input_ids"], self.tokenizer(b)["input_ids"]) for a, b in texts]
        self.model.train()
        for step in range(self.steps):
            before, said = rows[step % len(rows)]
            ids = torch.tensor([before + said])
            labels = torch.tensor([[-100] * len(before) + said])
            optimizer.zero_grad()
            self.model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
        return self.adapters()


def flower_recording(folder: Path, federation: Federation, rounds: int = 2) -> Path:
    """The federation as `ProvenanceStrategy` records it."""
    from flwr.app import Array, ArrayRecord
    from flwr.serverapp.strategy import FedAvg

    from provfl_cli.flower import ProvenanceStrategy
    from tests.flower_clients import Clients, quiet, reply

    def answer(index: int, number: int, arrays: dict[str, np.ndarray]) -> Any:
        return reply(federation.trained(index, arrays), **{"num-examples": 10 * (index + 1), "partition-id": index})

    random.seed(0)
    averaging: Any = FedAvg  # of settings and a grid of the tests' own
    grid: Any = Clients(len(PHRASES), answer)
    strategy = ProvenanceStrategy(averaging(**quiet), folder, names="partition-id", strict=True)
    arrays = ArrayRecord({name: Array(value) for name, value in federation.initial.items()})
    strategy.start(grid, arrays, num_rounds=rounds)
    return folder


def nvflare_recording(folder: Path, federation: Federation, place: Path) -> Path:
    """The same as NVFlare's recorder does."""
    from provfl_cli.nvflare import ProvenanceRecorder
    from tests.nvflare_jobs import DirectFedAvg, result, run

    def answer(name: str, number: int, arrays: dict[str, Any]) -> Any:
        client = int(name.rpartition("-")[2]) - 1
        return result(federation.trained(client, arrays), STEPS[name])

    recorder = ProvenanceRecorder(str(folder), strict=True)
    run(DirectFedAvg(num_clients=3, num_rounds=1), recorder, place, answer, federation.initial)
    return folder
