"""Bundles: a result in one file, written, verified, joined with others, published. Only training again needs torch."""
