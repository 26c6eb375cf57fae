"""Style transfer where torch is: the step and its loss, feature networks, pictures, and what a trained network does."""
