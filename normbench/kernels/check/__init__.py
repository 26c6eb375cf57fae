"""The developer's check of the kernels on a GPU, against their formulas: ``python -m normbench.kernels.check``."""
