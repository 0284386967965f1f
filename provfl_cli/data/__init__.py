"""Load a dataset, split it over clients, plant faults, and turn every client's share into tensors, once."""
