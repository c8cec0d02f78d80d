"""From a PyTorch module to a coded network: capture the graph, then project every weight."""
