"""What runs on the edge: bundles and the runners that execute them.  No torch here."""

#: Names that ``--runtime`` takes; here, where the command line finds them without loading any.
RUNTIMES = ("auto", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "torch")
#: Names that ``--kernels`` takes, for the torch runtime: what computes POSTER's cross-fusion.
KERNELS = ("auto", "triton", "triton:int8", "cuda", "cuda:int8", "sdpa", "eager")
