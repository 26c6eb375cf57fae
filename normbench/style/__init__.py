"""Style transfer: training the network, what it is trained with, and what the runs leave to read.

`config`, `records` and `report` need no torch; `training` is what a worker process runs.
"""
