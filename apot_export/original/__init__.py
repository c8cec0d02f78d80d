"""A checkpoint rebuilt as the PyTorch network that it came from."""
