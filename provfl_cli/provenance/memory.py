"""How much memory a trace may take: what `provenance.memory_mb` says, or what a GPU has left."""

from __future__ import annotations

import torch

ON_CPU = 2048 * 2**20  # bytes where nothing is said: the same on every machine, since batches decide the last digits
SHARE = 0.6  # of what a GPU has left; the rest is for the gradients and patches of a layer, which nobody counts
IN_BLOCKS = 3  # one part in so many is for blocks of clients, on a GPU
AT_ONCE = 10  # tensors as large as a block that exist at the same time, at most
LARGEST_BLOCK = 1 << 25  # numbers; larger products are no faster, and copies of several blocks overlap
TOO_LITTLE = (
    "the GPU has too little memory left for the trace of a single input: end what else runs on it, or trace on the "
    "CPU with device=cpu"
)


def room(memory_mb: int | None, device: torch.device) -> int:
    """Bytes for the activations of the inputs traced together and for blocks of clients.

    Args:
        memory_mb: the setting; None: found here, of a GPU from what is free.
        device: where the trace is computed.
    """
    if memory_mb is not None:
        return memory_mb * 2**20
    if device.type != "cuda":
        return ON_CPU
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch keeps it for later
    return int(SHARE * (free + unused))


def activations(memory_mb: int | None, device: torch.device) -> int:
    """Bytes of `room` for the activations of the inputs traced together; on a CPU, where blocks are small, all."""
    bytes_ = room(memory_mb, device)
    return bytes_ - bytes_ // IN_BLOCKS if device.type == "cuda" else bytes_


def block_numbers(memory_mb: int | None, device: torch.device, itemsize: int) -> int | None:
    """Numbers in one block of clients on a GPU; None on others, where blocks stay in the CPU's cache."""
    if device.type != "cuda":
        return None
    return max(1, min(LARGEST_BLOCK, room(memory_mb, device) // IN_BLOCKS // (AT_ONCE * itemsize)))
