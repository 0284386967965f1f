"""Build a module with the right channels and classes; one function a model."""
