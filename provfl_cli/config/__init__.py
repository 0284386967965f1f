"""The composed configuration: where the Hydra tree lies, how it is composed, and the schema that it must satisfy."""
