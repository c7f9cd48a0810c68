"""From a PyTorch model to an ONNX file that is checked and compared before anyone uses it."""
