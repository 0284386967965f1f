"""`provfl report`: runs as one HTML file that needs no network.

`reading` opens a run folder, `traces`, `clients` and `sweeps` turn it into what the page shows, `document` writes it.
"""
