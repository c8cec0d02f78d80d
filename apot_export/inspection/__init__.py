"""What a checkpoint or an export holds: thresholds, bit-widths, the likeliest quantization."""
