"""Models in other hands: files (loading), ONNX, PyTorch's modules."""
