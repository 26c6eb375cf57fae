"""Experiments as configs: their schema, and reading, overriding and explaining config files. Needs no torch."""
