"""Rounds on disk: safetensors and a JSON manifest, written atomically, checksummed, memory-mapped on read."""
