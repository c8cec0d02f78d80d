"""What must be exact: weights, integers, levels, and values within float rounding."""
