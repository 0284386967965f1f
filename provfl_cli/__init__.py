"""ProvFL: which clients of a federation are responsible for a prediction of its global model.

Parts, each importing only from those before it: config, data, models, fusion, store, federation, provenance,
evaluation, reporting, run, cli. Importing this package imports none of them.
"""

__version__ = "0.1.0"
