"""An opened TensorRT engine: its tensors, its batch sizes, and execution contexts that share their scratch memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from poster_edge.errors import UnavailableError
from poster_edge.export.tensorrt_api import TensorRt
from poster_edge.runtime.device_memory import Device

if TYPE_CHECKING:
    import tensorrt as trt

#: TensorRT's tensor types that numpy has.
_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class Tensor:
    """An input or output.

    Attributes:
        name: as in the ONNX graph.
        shape: of one row, without the batch.
        dtype: numpy's.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def bytes(self, rows: int) -> int:
        """Size of a batch."""
        return rows * int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def view(self, memory: NDArray[np.uint8], rows: int) -> NDArray[Any]:
        """The start of (size,) bytes as a batch, (rows, \\*shape)."""
        # (bytes,) -> (rows, *shape)
        return memory[: self.bytes(rows)].view(self.dtype).reshape(rows, *self.shape)


def deserialise(tensorrt: TensorRt, plan: bytes) -> trt.ICudaEngine:
    """Open a plan: the only place that does.  Its bytes must be known to have been built by this user.

    Raises:
        UnavailableError: TensorRT refuses it; says why.
    """
    runtime = tensorrt.runtime()
    tensorrt.log.clear()
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        reason = tensorrt.log.errors[-1] if tensorrt.log.errors else "no reason given"
        raise UnavailableError(f"{tensorrt.title} cannot open the engine: {reason}")
    return engine


class TrtEngine:
    """A plan on a device; every context made from it computes in one piece of scratch memory.

    That is safe as long as all of them run in one stream.

    Args:
        tensorrt: which TensorRT.
        plan: trusted bytes.
        device: where the scratch memory comes from.

    Attributes:
        inputs: name -> input.
        outputs: name -> output.
        batches: smallest and largest batch.

    Raises:
        UnavailableError: TensorRT refuses the plan, or it is none of ours.
    """

    def __init__(self, tensorrt: TensorRt, plan: bytes, device: Device) -> None:
        self._tensorrt = tensorrt
        self._device = device
        self._engine = deserialise(tensorrt, plan)
        self._scratch = 0
        inputs = tensorrt.module.TensorIOMode.INPUT
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        modes = {n: self._engine.get_tensor_mode(n) == inputs for n in names}
        self.inputs = {n: self._tensor(n) for n in names if modes[n]}
        self.outputs = {n: self._tensor(n) for n in names if not modes[n]}
        if not self.inputs or not self.outputs:
            raise UnavailableError("the engine has no input or no output; build it again from its ONNX file")
        # Each shape is (rows, ...).
        smallest, _, largest = self._engine.get_tensor_profile_shape(next(iter(self.inputs)), 0)
        self.batches = int(next(iter(smallest))), int(next(iter(largest)))

    def create_context(self, rows: int) -> trt.IExecutionContext:
        """A new execution context for one batch size.

        Raises:
            UnavailableError: TensorRT cannot make it.
        """
        context = self._new_context()
        if size := self.scratch_bytes:
            self._scratch = self._scratch or self._device.allocate(size)
            context.set_device_memory(self._scratch, size)
        for tensor in self.inputs.values():
            if not context.set_input_shape(tensor.name, (rows, *tensor.shape)):
                raise UnavailableError(f"the engine takes no batch of {rows}: {self.reason()}")
        return context

    @property
    def scratch_bytes(self) -> int:
        """Scratch memory of a context."""
        return int(self._engine.device_memory_size_v2)

    def close(self) -> None:
        """Give the scratch memory back and close the engine; no context may be left."""
        if self._scratch:
            self._device.free(self._scratch)
        self._scratch = 0
        del self._engine

    def _new_context(self) -> trt.IExecutionContext:
        user_managed = self._tensorrt.module.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._tensorrt.is_rtx:
            context = self._engine.create_execution_context(self._runtime_config(user_managed))
        else:
            context = self._engine.create_execution_context(user_managed)
        if context is None:
            raise UnavailableError(f"{self._tensorrt.title} cannot create a context: {self.reason()}")
        return context

    def _runtime_config(self, allocation: trt.ExecutionContextAllocationStrategy) -> trt.IRuntimeConfig:
        """How TensorRT-RTX runs an engine."""
        config: Any = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(allocation)
        # The default compiles kernels for a shape in the background and changes over to them at some later
        # call: a captured graph would keep the slow ones for ever.
        strategies = getattr(self._tensorrt.module, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is not None:
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return cast("trt.IRuntimeConfig", config)

    def _tensor(self, name: str) -> Tensor:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise UnavailableError(f"the engine's tensor '{name}' is {kind}, which numpy has not; export it again")
        dims = self._engine.get_tensor_shape(name)
        shape = tuple(int(dims[i]) for i in range(len(dims)))
        if not shape or min(shape[1:], default=0) < 0:
            raise UnavailableError(f"the engine's tensor '{name}' has shape {shape}; only the batch may vary")
        return Tensor(name, shape[1:], np.dtype(_DTYPES[kind]))

    def reason(self) -> str:
        """The last error that TensorRT logged."""
        errors = self._tensorrt.log.errors
        return errors[-1] if errors else "no reason given"
