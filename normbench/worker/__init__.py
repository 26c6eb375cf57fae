"""What happens inside a training process: runs are built, trained and timed here."""
