"""The ways of training that `bench_training.py` compares, each a program of its own: `python -m ways.by_engine`."""
