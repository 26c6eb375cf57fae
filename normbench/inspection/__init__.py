"""Inspection of norms on one tensor: what they average over, what they hold, and whether two of them agree.

`measure` and `agreement` run layers and need torch; `picture` only reads the registry.
"""
