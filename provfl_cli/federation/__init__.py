"""Rounds: choose clients, train them through an engine, fuse, evaluate, store."""
