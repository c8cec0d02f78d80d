"""The exports in every program that reads ONNX files."""
