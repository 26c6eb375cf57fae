"""What is on disk: records, their writer, provenance and times. Needs no torch."""
