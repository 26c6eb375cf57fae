"""Experiments: from a config to planned runs, to trained runs in their folders. Knows all other rooms; they do not know it."""
