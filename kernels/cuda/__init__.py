"""CUDA C++ kernels: their source in ``csrc/``, how they are built, checked on a host and launched."""
