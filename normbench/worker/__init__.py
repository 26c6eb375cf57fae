"""The training process: runs of every task are built, trained and timed here.

`targets` and `libraries` need no torch.
"""
