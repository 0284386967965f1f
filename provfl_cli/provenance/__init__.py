"""Neuron provenance: which clients pushed a prediction (design section 2)."""
