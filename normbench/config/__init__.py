"""What an experiment is: its schema, and reading, overriding and explaining config files. Needs no torch."""
