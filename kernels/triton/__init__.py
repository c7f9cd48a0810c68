"""Fused cross-fusion kernels in Triton; nothing here imports triton until a kernel is asked for."""
