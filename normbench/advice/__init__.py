"""Which norm to choose: a decision tree with its evidence, stored as data. Needs no torch."""
