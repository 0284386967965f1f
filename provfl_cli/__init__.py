"""ProvFL: which clients of a federation are responsible for a prediction of its global model.

What its folders are for, in the order in which they may import each other, stands in `README.md` beside this file, and
what of them is stable. Importing this package imports none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from .results.notebook import RunResults

__version__ = "0.2.0"


def load_run(path: str | PathLike[str]) -> RunResults:
    """The results of a run as data frames.

        import provfl_cli

        run = provfl_cli.load_run("outputs/2026-01-31/12-00-00")
        run                                # in a notebook: its figures beside chance
        run.summary["localization_accuracy"]
        ours = run.contributions.query("method == 'provfl' and kind == 'client'")
        ours.groupby(["label", "client"])["share"].mean().unstack()  # who is behind which label

    The folder is data, whoever made it: nothing that its configuration names is imported or called.

    Args:
        path: the folder that `provfl run` made.

    Raises:
        InputError: it is none, the run failed or has not ended, or a file is missing or damaged.
    """
    from pathlib import Path

    from .results.notebook import load_run as load  # pandas comes with it

    return load(Path(path))
