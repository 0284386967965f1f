"""`provfl trace RUN`: one prediction or response, who pushed it, and what if they had not; or a table of many."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..errors import InputError, did_you_mean
from ..imports import later
from ..reporting.terminal import make_console
from ..run.place import require_file, require_language_model, require_model_and_data, require_place
from ..store.recorded import is_recorded, read_recorded
from .arguments import check_out, listed, parser, read, whole
from .folder import named
from .recorded import DATA, TARGET, TOKEN, add_of_run, add_recorded, refuse_recorded, refuse_run
from .responses import about_response, add_response, answer_response
from .saying import say
from .waiting import waiting

if TYPE_CHECKING:
    from ..provenance import watched
    from ..reporting import prediction, progress
    from ..results import files
    from ..run import open_language_model, open_recording, open_run, query
    from ..run.inputs import TracedInputs
    from ..run.open_run import OpenFederation
    from ..store import cache
else:  # torch comes with most of them, numpy with the others
    watched, progress = later("provfl_cli.provenance.watched"), later("provfl_cli.reporting.progress")
    prediction, files = later("provfl_cli.reporting.prediction"), later("provfl_cli.results.files")
    open_language_model = later("provfl_cli.run.open_language_model")
    open_recording, open_run = later("provfl_cli.run.open_recording"), later("provfl_cli.run.open_run")
    query, cache = later("provfl_cli.run.query"), later("provfl_cli.store.cache")

TABLES = (".csv", ".parquet")
VERIFY = ("fusion", "retrain")
ADAPTERS = ("factors", "product")


def main(arguments: list[str]) -> int:
    """Trace, and show or write the answer."""
    args = read(_parser(), _verifying(arguments))
    if args is None:
        return 0
    args.run = named(args.run)
    _check(args)
    response = _check_places(args)
    with waiting(f"opening {args.run}"):
        opened = _opened(args, response)
    with cache.in_use(opened.folder / "rounds"):
        return answer_response(args, opened) if response else _answered(args, opened)


def _answered(args: Namespace, opened: OpenFederation) -> int:
    question = query.Query(args.method, args.target, args.without, args.verify or "", args.top, args.adapters)
    number = opened.round(args.round).number
    inputs = _inputs(args, opened, number)
    if args.inputs is not None:
        _write_table(opened, number, inputs, question, Path(args.out), sys.stdout)
        return 0
    return _answered_alone(args, opened, number, inputs, question)


def _parser() -> ArgumentParser:
    made = parser(
        "trace",
        {"RUN": "RUN comes first: provfl trace outputs/DATE/TIME --input 7"},
        description="Shows which clients pushed one prediction of a run, or each token of a language model's response, "
        "and through which layers; with --without and --verify, what it would be without them.",
    )
    made.add_argument("run", metavar="RUN", help="a run's folder, last (the newest), or a recorded federation")
    made.add_argument("--round", metavar="N", help="default: the last one traced")
    what = made.add_argument_group("the input; default: the first one that the run traced")
    what.add_argument("--input", metavar="INDEX", help="its number in the run's test set")
    what.add_argument("--image", metavar="FILE", help="a picture of your own")
    what.add_argument("--text", metavar="TEXT", help="a text of your own")
    what.add_argument("--inputs", metavar="PATH", help="many: a table, or a folder of pictures; with --out")
    add_response(made)
    how = made.add_argument_group("the question")
    how.add_argument("--method", nargs="+", default=[], metavar="NAME", help="presets of provenance, or other methods")
    how.add_argument("--adapters", metavar="TERMS", help="LoRA layers as factors (A and B apart) or product (B A)")
    how.add_argument("--target", metavar="LABEL", help=TARGET + TOKEN)
    how.add_argument("--without", metavar="CLIENTS", help="what would it be without these? such as 3,7")
    how.add_argument(
        "--verify", metavar="HOW", help="leave each top client out: does the ranking hold? fusion | retrain"
    )
    how.add_argument("--top", default=10, metavar="N", help="clients shown, and left out by --verify (default: 10)")
    out = made.add_argument_group("the answer")
    out.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    out.add_argument("--out", metavar="FILE", help="write there: .json, or a table (.csv, .parquet)")
    add_of_run(made)
    add_recorded(made, f"{DATA}; of a run: where its dataset is now, a folder, a file or a hub id")
    return made


def _verifying(arguments: list[str]) -> list[str]:
    """The arguments with a word behind every `--verify`: fusion, unless it has one. What follows may be the run."""
    words = list[str]()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--verify":
            word = f"--verify={rest.pop(0) if rest and rest[0] in VERIFY else VERIFY[0]}"
        words.append(word)
    return words


def _check(args: Namespace) -> None:
    """Whole numbers made of what should be some; InputError for what does not go together."""
    for name in ("round", "input", "top"):
        value = getattr(args, name)
        if value is not None:
            setattr(args, name, whole(name, str(value), 0 if name == "input" else 1))
    args.method = listed("--method", args.method)
    args.without = listed("--without", [] if args.without is None else [args.without])
    if args.adapters not in (None, *ADAPTERS):
        raise InputError(f"--adapters {args.adapters}: {did_you_mean(args.adapters, ADAPTERS)}")
    if args.verify not in (None, *VERIFY):
        raise InputError(f"--verify {args.verify}: {did_you_mean(args.verify, VERIFY)}")
    sources = [name for name in ("input", "image", "text", "inputs", "prompt") if getattr(args, name) is not None]
    if len(sources) > 1:
        raise InputError(f"--{' and --'.join(sources)}: one of them at a time")
    kinds = TABLES if args.inputs is not None else (".json", *TABLES)
    if args.out is not None:
        path = Path(args.out)
        check_out(path)
        if path.suffix not in kinds:
            raise InputError(f"--out {path}: {did_you_mean(path.suffix, kinds)}")
    if args.inputs is None:
        return
    if args.out is None:
        raise InputError("--inputs writes a table: --out FILE.csv or --out FILE.parquet")
    for name in ("without", "verify", "json"):
        if getattr(args, name):
            raise InputError(f"--{name} is for one prediction, --inputs for many: one of them")


def _check_places(args: Namespace) -> bool:
    """Whether a response is asked about; InputError for options that do not go with that, and for folders and files
    that are not there, before anything is imported that takes seconds.
    """
    folder = args.run
    require_place(folder)
    response = about_response(args)
    if is_recorded(folder):
        if response:
            require_language_model(folder, args.model)
        elif read_recorded(folder) is not None:
            require_model_and_data(folder, args.model, args.data)
        return response
    refuse_recorded(args, "model", "tokenizer")
    if args.image is not None:
        require_file("--image", Path(args.image))
    if args.inputs is not None:
        require_file("--inputs", Path(args.inputs), folder_too=True)
    return response


def _opened(args: Namespace, response: bool) -> OpenFederation:
    folder = args.run
    if is_recorded(folder):
        refuse_run(args, "trust", "checkpoint", "client")
        if response:
            return open_language_model.open_language_model(folder, args.model)
        return open_recording.open_recorded(folder, args.model, args.data, args.target, args.tokenizer)
    refuse_recorded(args, "model", "tokenizer")
    opened = open_run.open_run(folder, args.trust, args.data, args.checkpoint)
    return opened if args.client is None else opened.with_private_of(args.client)


def _inputs(args: Namespace, opened: OpenFederation, number: int) -> TracedInputs:
    inputs = opened.inputs
    if args.input is not None:
        return inputs.numbered(args.input)
    if args.image is not None:
        return inputs.picture(Path(args.image))
    if args.text is not None:
        return inputs.text(args.text)
    return inputs.first(number) if args.inputs is None else inputs.many(Path(args.inputs))


def _answered_alone(
    args: Namespace, opened: OpenFederation, number: int, inputs: TracedInputs, question: query.Query
) -> int:
    if args.out is not None and Path(args.out).suffix in TABLES:
        _write_table(opened, number, inputs, question, Path(args.out), sys.stderr if args.json else sys.stdout)
        if not (args.json or question.without or question.verify):
            return 0
    console = make_console()
    doing = "leaving clients out" if question.verify else "tracing"
    with nullcontext() if question.verify == "retrain" else waiting(doing):  # which shows how far it is
        answer = query.ask_one(opened, number, inputs, question, make_console(sys.stderr))
    if args.json:
        say(files.json_text(prediction.as_json(answer)), end="")
    else:
        console.print(prediction.show(answer))
    if args.out is not None and Path(args.out).suffix == ".json":
        files.write_text(Path(args.out), files.json_text(prediction.as_json(answer)))
    return 0


def _write_table(
    opened: OpenFederation, number: int, inputs: TracedInputs, question: query.Query, path: Path, told: TextIO
) -> None:
    with progress.TraceProgress(make_console(sys.stderr)) as shown, watched.watched(shown):
        frame = query.ask_many(opened, number, inputs, question)
    for line in frame.attrs["warnings"]:
        say(f"warning: {line}", to=sys.stderr)
    for note in opened.notes:
        say(note, to=sys.stderr)
    if path.suffix == ".csv":
        files.write_csv(path, frame)
    else:
        files.write_parquet(path, files.for_people(frame))
    count = len(inputs.names)
    for note in inputs.notes:
        say(note, to=told)
    say(f"{count:,} input{'' if count == 1 else 's'}, {len(frame):,} rows -> {path}", to=told)
