"""The room of the training process: runs are built, trained and timed here. `targets` alone needs no torch."""
