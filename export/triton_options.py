"""What ``poster-edge export --format triton`` can be asked for; light, so that the command line can import it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from poster_edge.errors import UsageError

BACKENDS = ("onnxruntime", "tensorrt")
KINDS = ("cpu", "gpu")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class TritonOptions:
    """How a model is to be served.

    Attributes:
        max_batch: largest batch that the server makes or takes.
        preferred: batch sizes worth waiting for; empty: powers of two from 4, and ``max_batch``.
        queue_delay_us: longest wait for them, in microseconds.
        kind: "cpu" or "gpu", where the network runs; the ensemble's other steps run on the CPU.
        instances: copies of the network on the CPU or on each GPU.
        threads: of one operator in onnxruntime on the CPU; None: its own choice, which is every core.
        backend: "onnxruntime", or "tensorrt" for a plan that is built on the server.
        accelerator: let onnxruntime hand the graph to TensorRT.
        ensemble: add preprocessing, postprocessing and the ensemble that joins them.
    """

    max_batch: int = 16
    preferred: tuple[int, ...] = ()
    queue_delay_us: int = 500
    kind: str = "cpu"
    instances: int = 1
    threads: int | None = None
    backend: str = "onnxruntime"
    accelerator: bool = False
    ensemble: bool = True

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS or self.kind not in KINDS:
            raise UsageError(f"Triton backend '{self.backend}' on '{self.kind}': expected {BACKENDS} on {KINDS}")
        if self.max_batch < 1 or self.instances < 1 or self.queue_delay_us < 0:
            raise UsageError("batch size and number of instances must be at least 1, the queue's delay at least 0")
        if wrong := [n for n in self.preferred if not 1 <= n <= self.max_batch]:
            raise UsageError(f"preferred batch sizes {wrong} are not within 1 to --max-batch {self.max_batch}")
        if self.kind == "cpu" and (self.backend == "tensorrt" or self.accelerator):
            raise UsageError("TensorRT runs on a GPU: add --triton-kind gpu")
        if self.backend == "tensorrt" and self.accelerator:
            raise UsageError("--triton-tensorrt is for the onnxruntime backend; a plan needs no accelerator")
        if self.threads is not None and self.kind == "gpu":
            raise UsageError("--threads is about the CPU; leave it out with --triton-kind gpu")

    @property
    def preferred_sizes(self) -> tuple[int, ...]:
        """Preferred batch sizes, ascending."""
        if self.preferred:
            return tuple(sorted(set(self.preferred)))
        powers = [2**k for k in range(2, 16) if 2**k < self.max_batch]
        return (*powers, self.max_batch) if self.max_batch > 1 else ()

    @property
    def placement(self) -> str:
        """Which form of an INT8 model serves: see README, "Precision"."""
        return "inputs-outputs" if self.kind == "cpu" else "inputs"

    def check_precision(self, precision: str) -> None:
        """Refuse a precision that the server would compute in another one.

        Raises:
            UsageError: INT8 on a GPU without TensorRT: onnxruntime's CUDA kernels have no INT8 convolution.
        """
        if precision == "int8" and self.kind == "gpu" and self.backend == "onnxruntime" and not self.accelerator:
            raise UsageError(
                "onnxruntime's CUDA provider computes INT8 graphs in float; add --triton-tensorrt or "
                "--triton-backend tensorrt, or take --precision fp16"
            )


def check_name(name: str) -> None:
    """Refuse a model name that is no plain folder name.

    Raises:
        UsageError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot name a model of the server: letters, digits, '_', '.' and '-' only; pass --name NAME"
        )
