"""What a trained network does on images, beyond one accuracy: a measure in each file (docs/evaluation.md)."""
