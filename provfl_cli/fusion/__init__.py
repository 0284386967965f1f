"""Fusion: how the server combines clients' models, and what of each client the result is made of.

One fusion is one frozen dataclass in a module of its own and one file in `conf/fusion/`. Its fields are its settings.
"""
