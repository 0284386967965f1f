"""The job: federated averaging in NVFlare's simulator, on this machine alone."""

from __future__ import annotations

import sys

import task
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.recipe.sim_env import SimEnv

from provfl_cli.nvflare import record  # ProvFL

CLIENTS, ROUNDS = 4, 2
LABELS = [str(digit) for digit in range(10)]


def main(workspace: str) -> None:
    """Run it in the folder `workspace`."""
    recipe = FedAvgRecipe(
        name="digits",
        model=task.Net(),
        min_clients=CLIENTS,
        num_rounds=ROUNDS,
        train_script="client.py",
        train_args=f"--clients {CLIENTS}",
    )
    record(recipe, "provenance", labels=LABELS)  # ProvFL
    recipe.execute(SimEnv(num_clients=CLIENTS, workspace_root=workspace))


if __name__ == "__main__":
    main(sys.argv[1])
