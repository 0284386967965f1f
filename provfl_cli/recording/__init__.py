"""What the recorders of others' federations share: the folder of a recording, its rounds, and the check of a model."""
