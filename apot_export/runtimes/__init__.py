"""What executes a network: PyTorch, ONNX Runtime, OpenVINO, native kernels, a C interpreter."""
