"""Attention and fused kernels, free of any knowledge of the models that call them."""
