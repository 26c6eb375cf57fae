"""Speed: training steps and single layers, timed against each other in one process (docs/performance.md).

`results`, `tables` and `picture` need no torch; the other files measure.
"""
