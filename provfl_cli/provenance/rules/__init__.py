"""Layer rules: one short function for each torch function that is linear in its parameters.

Importing this package registers them all; `fallback` serves every other function.
"""

from . import convolution, elementwise, embedding, linear, normalization

__all__ = ["convolution", "elementwise", "embedding", "linear", "normalization"]
