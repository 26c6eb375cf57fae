"""One training step: `build` chooses how it runs, `eager` and `fused` compute it, `prepare` captures it."""
