"""Console, tables and files for people: nothing is computed here."""
