"""Stands for the reading of a test set where nothing of it is asked for."""

from typing import NoReturn

from provfl_cli.config.schema import Dataset


def never_read(dataset: Dataset) -> NoReturn:
    """Fails the test that comes to read it."""
    raise AssertionError(f"the test set of {dataset} was read")
