"""Measurements during training (docs/probes.md): each runs eagerly on a copy and leaves training as it was."""
