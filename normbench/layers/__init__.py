"""What networks are made of beside norms: norm with activation, convolution, pooled classifier, hooks."""
