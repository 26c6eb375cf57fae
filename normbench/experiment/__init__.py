"""Experiments: from a config to planned runs, to trained runs in their folders."""
