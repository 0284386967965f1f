"""Small federations of language models: what tests of `task=generate` share."""

from __future__ import annotations

import shlex

from provfl_cli.config.compose import compose_jobs, validated
from provfl_cli.config.schema import Config

TINY = shlex.split(  # seconds; nothing is learnt
    "task=generate device=cpu federation.rounds=2 federation.batch_size=16 warm_start.steps=3 warm_start.batch_size=4"
    " partition.max_examples_per_client=24 partition.min_examples_per_client=8 dataset.max_test_examples=12"
    " dataset.vocabulary=320 evaluation.inputs=all evaluation.max_inputs=4 model.config.num_hidden_layers=1"
    " model.config.hidden_size=16 model.config.intermediate_size=24"
)


def tiny(*overrides: str) -> Config:
    """The configuration of a small federation of six clients with a phrase each."""
    return validated(compose_jobs([*TINY, *overrides])[0][1])
