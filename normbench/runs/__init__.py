"""Records on disk: their types, their writer, provenance and times. Needs no torch."""
