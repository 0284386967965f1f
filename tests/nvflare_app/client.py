"""A client: trains what it receives on its own digits, and returns it."""

from __future__ import annotations

import argparse

import nvflare.client as flare
import task
import torch


def main() -> None:
    """Train until the server has had enough."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, required=True)
    clients = parser.parse_args().clients
    torch.set_num_threads(1)  # the net is tiny, and threads would wait for each other
    flare.init()
    own = int(flare.get_site_name().rpartition("-")[2]) - 1
    pixels, labels = task.train_data(own, clients)
    while flare.is_running():
        received = flare.receive()
        net = task.Net()
        net.load_state_dict({name: torch.as_tensor(value) for name, value in received.params.items()})
        steps = task.train(net, pixels, labels, epochs=2)
        flare.send(flare.FLModel(params=net.state_dict(), meta={"NUM_STEPS_CURRENT_ROUND": steps}))


if __name__ == "__main__":
    main()
