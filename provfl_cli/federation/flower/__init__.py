"""The federation on Flower: the engine that starts it, its server, and the app that a worker runs."""
