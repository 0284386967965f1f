"""Methods that attribute predictions to clients, all behind one call: rivals of provenance, and provenance itself."""
