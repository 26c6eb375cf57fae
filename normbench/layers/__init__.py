"""The parts of networks beside norms: norm with activation, convolution, pooled classifier, hooks of training."""
