"""A TensorRT plugin that runs the fused kernels: its C++ source, and what is generated for one model."""
