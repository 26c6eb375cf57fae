"""The version of this copy of NormBench."""

__version__ = "0.2.0"
