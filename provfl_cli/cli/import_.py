"""`provfl import`: a round of models that others trained, from the checkpoints of any framework."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.chosen_fusion import chosen_fusion
from ..errors import InputError, did_you_mean
from ..imports import later
from ..run.checkpoints.renaming import substitutions
from ..run.place import MISMATCH, ROWS, STATELESS, require_file
from .arguments import check_out, parser, read, whole
from .saying import say

if TYPE_CHECKING:
    from ..run import imported
else:  # torch comes with it
    imported = later("provfl_cli.run.imported")

SENT = ("weights", "updates")


def main(arguments: list[str]) -> int:
    """Store the round, and say how to trace it."""
    args = read(_parser(), arguments)
    if args is None:
        return 0
    fusion = _fusion(args.fusion)
    number = None if args.round is None else whole("round", args.round, 1)
    folder = Path(args.out) if args.out is not None else _new_folder()
    check_out(folder, folder=True)
    if args.mismatch not in MISMATCH:
        raise InputError(f"--mismatch {args.mismatch}: {did_you_mean(args.mismatch, MISMATCH)}")
    if args.clients_are not in SENT:
        raise InputError(f"--clients-are {args.clients_are}: {did_you_mean(args.clients_are, SENT)}")
    if args.model is not None and ":" not in args.model:
        raise InputError(
            f"--model {args.model}: give MODULE:FUNCTION, which returns the model; one of conf/model is checked at "
            "its trace, since its form follows from the inputs"
        )
    renaming = substitutions(args.as_names)
    clients = [_parts(text) for words in args.client for text in words]
    _check_names(args.labels, [name for name, _, _ in clients], args.mismatch)
    for flag, file in (("--global", args.after), ("--previous", args.previous)):
        require_file(flag, Path(file), folder_too=True)
    for name, path, _ in clients:
        require_file(f"--client {name}", path, folder_too=True)
    bases = _bases([text for words in args.base for text in words], [name for name, _, _ in clients])
    done = imported.import_round(
        imported.Import(
            after=Path(args.after),
            before=Path(args.previous),
            clients=tuple(imported.Client(*client) for client in clients),
            folder=folder,
            number=number,
            fusion=fusion,
            called=tuple(args.fusion),
            buffers=tuple(args.buffers),
            labels=tuple(args.labels),
            mismatch=args.mismatch,
            updates=args.clients_are == "updates",
            renaming=renaming,
            model=args.model,
            bases=bases,
        )
    )
    stored = done.stored
    say(f"round {stored.number}: {len(stored.clients)} clients, fusion={args.fusion[0]} -> {folder}")
    for line in done.lines:
        say(line)
    say(f"trace it: provfl trace {folder} --model {args.model or 'MODEL'} --data FILE.safetensors")
    return 0


def _parser() -> ArgumentParser:
    made = parser(
        "import",
        description="Makes a stored round of checkpoints: the global model before and after, and what each client "
        "returned. Each FILE is a .safetensors, an .npz, a .pt, .pth, .bin or .ckpt of torch.save (tensors alone, no "
        "pickle), or a folder that save_pretrained of transformers or PEFT wrote. Clients may hold part of the model. "
        "Further rounds go into the same folder by --out.",
    )
    made.add_argument("--global", dest="after", required=True, metavar="FILE", help="the global model after the round")
    made.add_argument("--previous", required=True, metavar="FILE", help="the one that the clients started from")
    made.add_argument(
        "--client",
        action="append",
        nargs="+",
        required=True,
        metavar="NAME=FILE[:EXAMPLES]",
        help="what a client returned, and its number of training examples; once for each client",
    )
    made.add_argument(
        "--base",
        action="append",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="the model that a client started from, where that is not --previous but an older one",
    )
    made.add_argument(
        "--clients-are",
        default="weights",
        metavar="WHAT",
        help="what clients returned: weights (default) | updates: differences from --previous, or their --base",
    )
    made.add_argument(
        "--as-names",
        nargs="+",
        default=[],
        metavar="s/PATTERN/REPLACEMENT/",
        help=r"substitutions on the names of tensors in all files, as sed has them: 's/^module\.//'",
    )
    made.add_argument(
        "--model",
        metavar="MODULE:FUNCTION",
        help="returns the model: what is imported is checked against it now, and not only when it is traced",
    )
    made.add_argument(
        "--fusion",
        nargs="+",
        default=["fedavg"],
        metavar="NAME",
        help=f"how the server fused: {', '.join(STATELESS)}; settings behind it: trimmed_mean fraction=0.1",
    )
    made.add_argument(
        "--mismatch",
        default="refuse",
        metavar="WHAT",
        help="where --global is not what the fusion gives: refuse (default) | fusion: trace what it gives instead | "
        "row: state the difference as a row of its own",
    )
    made.add_argument("--labels", nargs="+", default=[], metavar="NAME", help="names of the classes, in their order")
    made.add_argument("--buffers", nargs="+", default=[], metavar="NAME", help="tensors that are no parameters")
    made.add_argument("--round", metavar="N", help="default: the one after the last in the folder")
    made.add_argument("--out", metavar="FOLDER", help="default: a new one, outputs/imported/DATE/TIME")
    return made


def _parts(text: str) -> tuple[str, Path, int | None]:
    """A client's name, file and number of examples."""
    name, equals, rest = text.partition("=")
    file, colon, count = rest.rpartition(":")
    if not (colon and re.fullmatch(r"[+-]?[\d.]+", count)):
        file, count = rest, ""
    if not (name and equals and file):
        raise InputError(f"--client {text}: give NAME=FILE or NAME=FILE:EXAMPLES")
    return (name, Path(file), whole(f"client {name}", count, 1, 10**12) if count else None)


def _bases(texts: list[str], clients: list[str]) -> dict[str, Path]:
    """The file of each client that started from another model than the others."""
    bases = dict[str, Path]()
    for text in texts:
        name, _, file = text.partition("=")
        if not (name and file):
            raise InputError(f"--base {text}: give NAME=FILE")
        if name not in clients:
            raise InputError(f"--base {text}: no --client has that name, {did_you_mean(name, clients, 20)}")
        if name in bases:
            raise InputError(f"--base {text}: {name} has one already")
        require_file(f"--base {name}", Path(file), folder_too=True)
        bases[name] = Path(file)
    return bases


def _check_names(labels: list[str], clients: list[str], mismatch: str) -> None:
    """Raise InputError where answers could not tell labels, or clients from other rows, apart."""
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"--labels {label}: is there twice: classes need different names")
    for name in clients if mismatch == "row" else ():
        if name in ROWS:
            raise InputError(
                f"--client {name}: with --mismatch row that may be a row of what no client sent: give the client "
                f"another name (none of {', '.join(ROWS)})"
            )


def _fusion(words: list[str]) -> Any:
    """The fusion that the words name; its settings are checked as those of a run."""
    name = words[0]
    if name not in STATELESS:
        raise InputError(
            f"--fusion {name}: {did_you_mean(name, STATELESS)} (others need the server's or the clients' own state; "
            "rounds of Flower are recorded as they happen: provfl_cli.flower)"
        )
    return chosen_fusion(words)


def _new_folder() -> Path:
    return Path("outputs", "imported", *datetime.now().strftime("%Y-%m-%d %H-%M-%S").split())
