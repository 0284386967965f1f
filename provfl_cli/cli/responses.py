"""`provfl trace RUN --prompt TEXT`: what of the command line is about responses of language models."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, did_you_mean
from ..imports import later
from ..provenance.settings import TOKEN_TARGETS
from ..reporting.terminal import make_console
from ..run.place import GENERATE, task_of
from ..store.recorded import is_recorded
from .arguments import whole
from .saying import say

if TYPE_CHECKING:
    from ..reporting import response as shown
    from ..results import files
    from ..results.response import Response
    from ..run import asked_response, response_query
    from ..run.open_run import OpenFederation
    from ..run.prompts import Prompt
else:  # torch comes with most of them, numpy with the others
    shown, files = later("provfl_cli.reporting.response"), later("provfl_cli.results.files")
    asked_response = later("provfl_cli.run.asked_response")
    response_query = later("provfl_cli.run.response_query")

OPTIONS = ("prompt", "response", "span", "instead", "temperature", "seed", "tokens")
OTHERS = {"image": "pictures", "text": "texts that are classified", "inputs": "tables of inputs"}
MOST_TOKENS, HOTTEST = 4096, 100.0


def add_response(made: ArgumentParser) -> None:
    """Let the command take what asks about responses."""
    group = made.add_argument_group("a response of a language model (task=generate, or a recorded one)")
    group.add_argument("--prompt", metavar="TEXT", help="answer it, and say who pushed which token of the answer")
    group.add_argument("--response", metavar="TEXT", help="explain this response, not what the model says")
    group.add_argument("--span", metavar="TEXT", help="explain this piece of the response")
    group.add_argument("--instead", metavar="TEXT", help="explain why not this: log-odds of the two answers")
    group.add_argument("--temperature", metavar="T", help="sample with it; without: the likeliest token each time")
    group.add_argument("--seed", metavar="N", help="of sampling (default: 0)")
    group.add_argument("--tokens", metavar="N", help="most of a response (default: 256, where there is room)")


def about_response(args: Namespace) -> bool:
    """Whether the question is about a response: of a run its task says so, of a recording the options.

    Raises:
        InputError: an option that makes no sense with that.
    """
    folder: Path = args.run
    given = [name for name in OPTIONS if getattr(args, name) is not None]
    if is_recorded(folder):
        if given and args.prompt is None:
            raise InputError(f"--{given[0]}: which prompt? --prompt TEXT")
        if given and args.data is not None:
            raise InputError(f"--data: is for models that classify, --{given[0]} for those that answer: one of them")
        if given and args.tokenizer is not None:
            raise InputError("--tokenizer: that of a model that answers lies in its folder: leave it out")
    elif task_of(folder) != GENERATE:
        if given:
            raise InputError(
                f"--{given[0]}: is for runs with task=generate, this run's model classifies: --input INDEX, or "
                "--text or --image of your own"
            )
        return False
    elif wrong := next((name for name in OTHERS if getattr(args, name) is not None), None):
        raise InputError(f"--{wrong}: this run's model answers prompts, no {OTHERS[wrong]}: --prompt TEXT")
    about = bool(given) or not is_recorded(folder)
    if about:
        _check(args)
    return about


def _check(args: Namespace) -> None:
    """Numbers made of what should be some; InputError for options that do not go together."""
    if args.target is not None and args.target not in TOKEN_TARGETS:
        raise InputError(f"--target {args.target}: of a token: {did_you_mean(args.target, TOKEN_TARGETS)}")
    if args.instead is not None and args.target not in (None, "log_probability"):
        raise InputError("--instead compares log-probabilities: leave --target out")
    if args.instead is not None and args.span is not None:
        raise InputError("--instead and --span: one of them at a time")
    if args.temperature is None and args.seed is not None:
        raise InputError("--seed is of sampling: --temperature T with it")
    if args.response is not None and args.temperature is not None:
        raise InputError("--response is given, not sampled: leave --temperature out")
    if args.temperature is not None:
        args.temperature = _temperature(args.temperature)
    args.seed = 0 if args.seed is None else whole("seed", args.seed, 0)
    args.tokens = None if args.tokens is None else whole("tokens", args.tokens, 1, MOST_TOKENS)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value == 0:
        raise InputError("--temperature 0: the likeliest token each time is what is taken without it: leave it out")
    if not 0 < value <= HOTTEST:
        raise InputError(f"--temperature {text[:40]}: must be above 0 and at most {HOTTEST:g}, such as 0.8")
    return value


def answer_response(args: Namespace, opened: OpenFederation) -> int:
    """Answer, and show or write it."""
    number = opened.round(args.round).number
    prompts = opened.prompts
    if prompts is None:
        raise InputError(f"--prompt: the model of {args.run} does not answer prompts: --input INDEX")
    prompt: Prompt
    if args.prompt is not None:
        prompt = prompts.own(args.prompt)
    else:
        prompt = prompts.first(number) if args.input is None else prompts.numbered(args.input)
    question = asked_response.ResponseQuery(
        methods=args.method,
        target=args.target,
        response=args.response,
        span=args.span,
        instead=args.instead,
        temperature=args.temperature,
        seed=args.seed,
        **({} if args.tokens is None else {"tokens": args.tokens}),
        without=args.without,
        verify=args.verify or "",
        top=args.top,
        adapters=args.adapters,
    )
    console = make_console()
    waits = question.verify == "fusion" and not args.json and console.is_terminal
    with console.status("leaving clients out…") if waits else nullcontext():
        answer = response_query.ask_response(opened, number, prompt, prompts.codec, question, make_console(sys.stderr))
    if args.json:
        say(files.json_text(shown.as_json(answer)), end="")
    else:
        console.print(shown.show(answer))
    if args.out is not None:
        _write(Path(args.out), answer, args.json)
    return 0


def _write(path: Path, answer: Response, json: bool) -> None:
    """The answer as JSON, or everybody's contributions to its tokens as a table."""
    if path.suffix == ".json":
        files.write_text(path, files.json_text(shown.as_json(answer)))
        return
    frame = response_query.response_frame(answer)
    if path.suffix == ".csv":
        files.write_csv(path, frame)
    else:
        files.write_parquet(path, files.for_people(frame))
    say(f"{len(answer.tokens.texts):,} tokens, {len(frame):,} rows -> {path}", to=sys.stderr if json else sys.stdout)
