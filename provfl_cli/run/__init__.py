"""Compose the parts for one validated configuration: data, training, tracing, tables, files."""
