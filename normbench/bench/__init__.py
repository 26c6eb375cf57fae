"""Speed: training steps and single layers, timed against each other in one process (docs/performance.md).

`time_steps` and `time_layers` measure; `results`, `tables` and `dot_plot` only read what was measured.
"""
