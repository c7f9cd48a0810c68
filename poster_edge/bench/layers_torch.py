"""Times of PyTorch's operators, from its own profiler; their costs come from the shapes that it notes.

Eager PyTorch runs operators, not nodes of an ONNX graph: a layer is an outermost operator, under the name of the
module that calls it.  The size of its output is not noted: that of products is computed, and any other output is
taken to be as large as the largest input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from numpy.typing import NDArray

from poster_edge.bench.layers_graph import Cost
from poster_edge.bench.layers_join import Trace
from poster_edge.runtime.torch_runner import TYPES, TorchRunner

_RUN, _MODULE, _OPERATOR = "poster_edge.run", "poster_edge.module:", "aten::"
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
#: Operators that only look at their input in another way.
_VIEWS = frozenset(
    {
        *("alias", "chunk", "detach", "expand", "flatten", "narrow", "permute", "reshape", "select", "slice", "split"),
        *("squeeze", "t", "transpose", "unflatten", "unsqueeze", "view"),
    }
)
Shape = Sequence[int]


def trace_torch(
    runner: TorchRunner, feed: Mapping[str, NDArray[Any]], *, runs: int, warmup: int
) -> tuple[list[Trace], list[float]]:
    """Run a network under PyTorch's profiler.

    Args:
        runner: not entered yet.
        feed: input name -> array.
        runs: timed ones.
        warmup: runs before, which are left out.

    Returns:
        The operators in the order of execution, and the ms of each whole run.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with runner:
        for _ in range(warmup):
            runner.infer(feed)
        with _named_modules(runner.network), profile(activities=activities, record_shapes=True) as profiler:
            for _ in range(runs):
                with record_function(_RUN):
                    runner.infer(feed)
        each = _BYTES[TYPES[runner.precision]]
    events = profiler.events()
    whole = [e for e in events if e.name == _RUN and e.input_shapes is not None]
    whole = [e for e in whole if "CPU" in str(e.device_type)]
    per_run = [[e for e in _operators(events) if _within(e, run)] for run in whole]
    precision = "fp32" if each == 4 else "fp16"
    return _traces(per_run, precision, each), [e.time_range.elapsed_us() / 1e3 for e in whole]


@contextmanager
def _named_modules(network: Any) -> Iterator[None]:
    """Within the block every call of a module is an event with its path."""
    from torch.profiler import record_function

    open_events: list[Any] = []

    def enter(path: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            event: Any = record_function(f"{_MODULE}{path}")
            event.__enter__()
            open_events.append(event)

        return hook

    def leave(*_: object) -> None:
        open_events.pop().__exit__(None, None, None)

    with ExitStack() as stack:
        for path, module in network.named_modules():
            stack.callback(module.register_forward_pre_hook(enter(path)).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        yield


def _operators(events: Sequence[Any]) -> list[Any]:
    """Outermost operators on the CPU's side, in the order of their beginning."""
    found = [e for e in events if e.name.startswith(_OPERATOR) and "CPU" in str(e.device_type)]
    outer = [e for e in found if e.cpu_parent is None or not e.cpu_parent.name.startswith(_OPERATOR)]
    return sorted(outer, key=lambda e: e.time_range.start)


def _within(event: Any, run: Any) -> bool:
    return bool(run.time_range.start <= event.time_range.start <= run.time_range.end)


def _traces(per_run: Sequence[Sequence[Any]], precision: str, each: int) -> list[Trace]:
    """Operators of the first run with the times of all; runs of one network are alike."""
    traces = []
    for same in zip(*per_run, strict=True):
        event, kind = same[0], same[0].name.removeprefix(_OPERATOR)
        name = f"{_module_of(event)}/{kind}".lstrip("/")
        times = tuple(max(e.device_time_total, 0) / 1e3 or e.time_range.elapsed_us() / 1e3 for e in same)
        traces.append(Trace(name, kind, times, cost=_cost(event, precision, each)))
    return traces


def _module_of(event: Any) -> str:
    while event is not None:
        if event.name.startswith(_MODULE):
            return str(event.name.removeprefix(_MODULE))
        event = event.cpu_parent
    return ""


def _cost(event: Any, precision: str, each: int) -> Cost:
    kind, shapes = event.name.removeprefix(_OPERATOR), [s for s in event.input_shapes if s]
    if kind in _VIEWS or not shapes:
        return Cost({}, 0, 0, 0, 0)
    flops, output = operator_flops(kind, event.input_shapes, event.concrete_inputs)
    if not flops and event.cpu_children:
        # An operator made of others, such as einsum: its products are theirs.
        flops = sum(_cost(c, precision, each).total_flops for c in event.cpu_children if c.name.startswith(_OPERATOR))
    sizes = [math.prod(s) for s in shapes]
    output = output or max(sizes)
    # Which inputs are weights is not noted; the bound needs the sum only.
    others = 0 if flops else output
    return Cost({precision: flops} if flops else {}, others, 0, each * sum(sizes), each * output)


def operator_flops(kind: str, shapes: Sequence[Shape], values: Sequence[Any]) -> tuple[int, int]:
    """Operations of a product, 2 per multiply-add, and how many values it puts out; (0, 0) for other operators.

    Args:
        kind: name of the operator without its namespace.
        shapes: of the inputs.
        values: of the inputs that are no tensors, None for those that are.
    """
    if kind == "linear":
        output = math.prod(shapes[0][:-1]) * shapes[1][0]
        return 2 * output * shapes[0][-1], output
    if kind in ("mm", "bmm", "matmul", "addmm", "baddbmm"):
        left, right = shapes[-2:] if kind in ("addmm", "baddbmm") and len(shapes) == 3 else _factors(kind, shapes)
        batch = math.prod(left[:-2]) if len(left) >= len(right) else math.prod(right[:-2])
        output = batch * left[-2] * right[-1]
        return 2 * output * left[-1], output
    if kind == "scaled_dot_product_attention":
        query, key, value = shapes[:3]
        output = math.prod(query[:-1]) * value[-1]
        return 2 * math.prod(query) * key[-2] + 2 * output * key[-2], output
    if kind in ("conv1d", "conv2d"):
        output = shapes[1][0] * shapes[0][0] * math.prod(_window(shapes[0], shapes[1], values))
        return 2 * output * math.prod(shapes[1][1:]), output
    if kind in ("conv_transpose1d", "conv_transpose2d"):
        stride, groups = values[3], values[6]
        spatial = math.prod(n * s for n, s in zip(shapes[0][2:], stride, strict=False))
        output = shapes[0][0] * shapes[1][1] * groups * spatial
        return 2 * math.prod(shapes[0]) * math.prod(shapes[1][1:]), output
    return 0, 0


def _factors(kind: str, shapes: Sequence[Shape]) -> tuple[Shape, Shape]:
    first = 1 if kind in ("addmm", "baddbmm") else 0
    return shapes[first], shapes[first + 1]


def _window(image: Shape, weight: Shape, values: Sequence[Any]) -> list[int]:
    """Height and width of a convolution's output."""
    stride, padding, dilation = values[3:6]
    return [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(image[2:], weight[2:], stride, padding, dilation, strict=False)
    ]
