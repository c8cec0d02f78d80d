"""What an export consists of, written and read: ONNX models, packed files, the directory."""
