#!/usr/bin/env python
"""How soon `provfl watch` names a client whose fault begins in round 8 of 15, and how often it names others.

    scripts/watch_delays.py --out outputs/paper/watch.md --cache DIR

Federations are trained as `provfl run` trains them (they are found again in the cache), every stored round is measured
as `provfl watch` measures it, and the band is laid over these figures. Kinds of faults, partitions and seeds that could
not be planted (a client without the labels that are exchanged) are left out and counted. `--have` takes what is in the
cache already and trains nothing; `--each` prints every client that is out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import torch

from provfl_cli.attribution.probes import HARM
from provfl_cli.attribution.suspicion import DIRECTION, DISAGREEMENT, ENTROPY, MARGIN, NORM
from provfl_cli.cli import main as provfl
from provfl_cli.evaluation.band import BandRound, next_round
from provfl_cli.run.watched import Watching, measured_rounds

SINCE, ROUNDS, FAULTY = 8, 15, 0
SCORES = {score.name: score for score in (ENTROPY, DISAGREEMENT, MARGIN, NORM, DIRECTION, HARM)}
PARTITIONS = ("dirichlet", "iid")
FROM = ("injection=scaled_update", f"injection.since={SINCE}")
KINDS = {  # what the faulty client does from round 8 on: settings
    "nobody is faulty": (),
    "all labels become 0": (*FROM, "injection.factor=1"),
    "1 and 7 exchanged": (*FROM, "injection.factor=1", "injection.mapping={1:7,7:1}"),
    "half of its labels random": (*FROM, "injection.factor=1", "injection.poison=noisy_labels", "injection.rate=0.5"),
    "backdoor that works": (
        *FROM, "injection.factor=auto", "injection.poison=backdoor", "injection.size=5", "injection.keep_clean=true",
        "injection.epochs=10",
    ),
    "update times ten": (*FROM, "injection.factor=10", "injection.poison=none"),
    "returns what it got": (*FROM, "injection.factor=1e-6", "injection.poison=none"),
}  # fmt: skip
CLEAN = next(iter(KINDS))
TEXT = f"""# Watching federations: how soon a fault is named, and how often others are

```text
scripts/watch_delays.py --cache DIR --out outputs/paper/watch.md      # --have: of what is in DIR, nothing is trained
```

Ten clients share 4,000 embedded MNIST pictures (LeNet, two epochs of SGD, FedAvg, all of them in each of {ROUNDS}
rounds; Dirichlet 0.3, or iid). Client {FAULTY} is honest until round {SINCE} begins, and then does what the table says.
All rounds are gone through as `provfl watch` does it: 500 labelled test inputs, the thresholds as they are.

The thresholds (10 standard deviations from a client's own past, 1.5 times those of
[suspicion](../../provfl_cli/attribution/README.md#suspicion-who-is-unlike-the-others-or-nobody) from the others),
and that the first two rounds are no past, were chosen on seeds 0 to 3 of Dirichlet, clean and with all labels 0; of
other kinds, partitions and seeds nothing had been seen. Five federations of a row say something, one says little.
*Others named* counts how often a client that did no wrong left the band. From round {SINCE} on the global model is
worse, and honest clients pull it back, each as its data have it.

Clients hold labels as the partition deals them: under Dirichlet, seed 0, client 0 has 34 ones among 263 examples and no
seven, so that exchanging the two changes little. A fault of so few labels is the hard case of the watch.

"""


@dataclass(frozen=True)
class Replayed:
    """A federation gone through again: round after round, who is out of the band."""

    kind: str
    partition: str
    seed: int
    rounds: tuple[BandRound, ...]

    @property
    def faulty(self) -> set[int]:
        """Numbers of the faulty clients."""
        return set() if self.kind == CLEAN else {FAULTY}

    @property
    def named(self) -> int | None:
        """The first round from the fault's on in which the faulty client is out."""
        return next((band.number for band in self.rounds if band.number >= SINCE and FAULTY in band.out), None)

    def alarms(self, before: bool) -> int:
        """How often a client left the band that did no wrong: before the fault began, or from then on."""
        count, was = 0, set[int]()
        for band in self.rounds:
            wrong = set(band.out) - (self.faulty if band.number >= SINCE else set())
            if (band.number < SINCE) == before:
                count += len(wrong - was)
            was = wrong
        return count


def main() -> None:
    """Train, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("outputs/watch"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--partitions", nargs="+", default=list(PARTITIONS))
    parser.add_argument("--have", action="store_true", help="train nothing")
    parser.add_argument("--each", action="store_true", help="print every client that is out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = list[Replayed]()
    for partition in args.partitions:
        for seed in args.seeds:
            for kind in args.kinds:
                measured = _measured(args.cache, kind, partition, seed, args.have)
                if measured is None:
                    continue
                found.append(Replayed(kind, partition, seed, _band(measured)))
                _tell(found[-1], args.each)
    text = TEXT + _page(found)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    print(text)


Measured = list[tuple[int, tuple[int, ...], dict[str, np.ndarray]]]


def _measured(cache: Path, kind: str, partition: str, seed: int, have: bool) -> Measured | None:
    """What is measured of every round: number, clients, values by score; kept beside the federations."""
    name = f"{partition}-{seed}-{list(KINDS).index(kind)}"
    file, folder = cache / f"{name}.npz", cache / "runs" / name
    if not file.exists():
        if have:
            return None
        overrides = [
            "run", "store.keep=all", f"store.cache={cache / 'cache'}", f"hydra.run.dir={folder}", f"seed={seed}",
            f"federation.rounds={ROUNDS}", f"partition={partition}", "provenance.scope=round", "tracefl_beside=false",
            "evaluation.max_inputs=10", *KINDS[kind],
        ]  # fmt: skip
        with redirect_stdout(StringIO()):
            code = provfl(overrides)
        if code:
            print(f"{name}: not planted", file=sys.stderr)
            return None
        arrays = dict[str, np.ndarray]()
        for stored, values in measured_rounds(Watching(folder, once=True)):
            arrays[f"{stored.number} clients"] = np.array(stored.clients)
            arrays |= {f"{stored.number} {score.name}": row for score, row in values.items()}
        np.savez(file, **arrays)
    with np.load(file) as arrays:
        numbers = sorted(int(key.split()[0]) for key in arrays if key.endswith(" clients"))
        return [
            (
                number,
                tuple(arrays[f"{number} clients"].tolist()),
                {score: arrays[f"{number} {score}"] for score in SCORES if f"{number} {score}" in arrays},
            )
            for number in numbers
        ]


def _band(measured: Measured) -> tuple[BandRound, ...]:
    rounds = list[BandRound]()
    for number, clients, values in measured:
        rounds.append(next_round(rounds, number, clients, {SCORES[name]: row for name, row in values.items()}))
    return tuple(rounds)


def _tell(replayed: Replayed, each: bool) -> None:
    title = f"{replayed.partition} seed {replayed.seed} {replayed.kind}"
    print(
        f"{title}: named {replayed.named}, alarms {replayed.alarms(True)} + {replayed.alarms(False)}", file=sys.stderr
    )
    for band in replayed.rounds if each else ():
        for client in band.out:
            reason = band.reason(client)
            if client not in replayed.faulty or band.number < SINCE:
                print(f"   {band.number}: {client} {reason}", file=sys.stderr)


def _page(found: Sequence[Replayed]) -> str:
    """The tables, as Markdown."""
    lines = [
        "| what client 0 does from round 8 on | partition | federations | named in round 8 | in round 9 "
        "| later | never | others named before | from round 8 on |",
        "| --- " * 9 + "|",
    ]
    for kind in KINDS:
        for partition in PARTITIONS:
            those = [one for one in found if one.kind == kind and one.partition == partition]
            if not those:
                continue
            named = [one.named for one in those]
            when = [
                named.count(SINCE), named.count(SINCE + 1),
                sum(number is not None and number > SINCE + 1 for number in named), named.count(None),
            ]  # fmt: skip
            shown = ["–"] * 4 if kind == CLEAN else [str(count) for count in when]
            alarms = [sum(one.alarms(before) for one in those) for before in (True, False)]
            lines.append(f"| {' | '.join([kind, partition, str(len(those)), *shown, *map(str, alarms)])} |")
    lines += ["", "| seed | partition | what client 0 does | delay in rounds | others named before | from round 8 on |"]
    lines.append("| --- " * 6 + "|")
    for one in sorted(found, key=lambda one: (one.partition, list(KINDS).index(one.kind), one.seed)):
        delay = "–" if one.kind == CLEAN else ("never" if one.named is None else str(one.named - SINCE))
        lines.append(
            f"| {one.seed} | {one.partition} | {one.kind} | {delay} | {one.alarms(True)} | {one.alarms(False)} |"
        )
    for label, those in (
        ("without a fault", [one for one in found if one.kind == CLEAN]),
        ("with one", [one for one in found if one.kind != CLEAN]),
    ):
        rounds = sum(len(one.rounds) for one in those)
        if rounds:
            alarms = sum(one.alarms(True) + one.alarms(False) for one in those)
            lines += ["", f"False alarms a round {label}: {alarms} in {rounds} rounds, {alarms / rounds:.3f}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
