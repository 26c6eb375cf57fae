"""What a norm does to one tensor: what it averages over, what it holds, and whether two norms agree.

`measure` and `agreement` run layers and need torch; `picture` only reads the registry.
"""
