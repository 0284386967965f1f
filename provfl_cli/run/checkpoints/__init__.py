"""Checkpoints as frameworks write them: each format has a reader, and `opened` is the door that chooses it."""
