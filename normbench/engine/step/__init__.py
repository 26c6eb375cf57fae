"""One training step: eager, fused, captured."""
