"""Thousands of damaged ONNX files through the way to TensorRT-RTX's parser and builder; needs no GPU.

    python benchmarks/broken_onnx.py [--count 5000] [--record FILE]

Each file is a small graph in which bytes, or fields of the protobuf, were changed at random.  It goes through
:func:`poster_edge.export.engine.build_engine` in a forked process of its own.  It must be built, or refused by one
line of ours, within 2 s of CPU time (the machine may be busy) and 512 MB.  A file that ends the process (a fault in
NVIDIA's library) then goes the way that ``export`` and ``run`` take,
:func:`poster_edge.export.engine_process.build_apart`: it must be one line, exit code 4.  Exits with 1 when any file
does otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from broken_onnx_seeds import seeds
from run_all import RESULTS, environment

from poster_edge.errors import InputError, PosterEdgeError, UnavailableError
from poster_edge.export.engine import build_engine
from poster_edge.export.engine_process import build_apart
from poster_edge.export.engine_spec import EngineSpec, Profile
from poster_edge.export.tensorrt_api import RTX, TensorRt, load

SPEC = EngineSpec(RTX, Profile(1, 2, 4), compute_capabilities=("8.6",))
#: What one file may take.
MOST_S, MOST_MB = 2.0, 512.0
#: A file that hangs is ended after so long.
_PATIENCE_S = 120
_NUMBERS = (0, -1, 1, 2, 7, 255, 1 << 16, (1 << 31) - 1, -(1 << 31), (1 << 63) - 1, -(1 << 63))
_OPERATORS = """
    Conv ConvTranspose MatMul Gemm Add Mul Div Sub Pow Relu PRelu Gelu Softmax LayerNormalization BatchNormalization
    InstanceNormalization Reshape Transpose Slice Concat Split Gather GatherND ScatterND Resize Pad MaxPool AveragePool
    GlobalAveragePool ReduceMean ReduceSum ArgMax TopK Cast QuantizeLinear DequantizeLinear Shape ConstantOfShape
    Constant Expand Tile Where Squeeze Unsqueeze Flatten Identity If Loop Scan Einsum LSTM GRU Attention NonZero
    OneHot Range Trilu CumSum GridSample RoiAlign NonMaxSuppression Frobnicate
"""

Random = np.random.Generator


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        kind: "built", "refused", "signal N", "hung", or "raised TYPE" for an error that is none of ours.
        seconds: of CPU time that it took.
        peak_mb: largest memory of its process.
        text: our line.
    """

    kind: str
    seconds: float
    peak_mb: float
    text: str

    @property
    def fault(self) -> str:
        """Why this is not as it must be, "" where it is; a signal is judged by the second way."""
        if self.kind.startswith(("raised", "hung")):
            return f"{self.kind}: {self.text}"
        if "\n" in self.text:
            return "more than one line"
        if self.kind in ("built", "refused") and self.seconds > MOST_S:
            return f"took {self.seconds:.1f} s of CPU time"
        return f"took {self.peak_mb:.0f} MB" if self.peak_mb > MOST_MB else ""


def damaged(whole: bytes, random: Random) -> bytes:
    """A damaged copy of a model: two times in five its bytes, else its fields."""
    ways = _BYTE_WAYS if random.random() < 0.4 else _FIELD_WAYS
    data = whole
    for _ in range(1 + int(random.random() < 0.4)):
        with contextlib.suppress(Exception):  # a way that finds nothing to change, or a model no longer readable
            data = ways[int(random.integers(len(ways)))](data, random)
    return data


def _flip(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    out[int(random.integers(len(out)))] ^= 1 << int(random.integers(8))
    return bytes(out)


def _overwrite(data: bytes, random: Random) -> bytes:
    out = bytearray(data)
    at = int(random.integers(len(out)))
    out[at : at + int(random.integers(1, 9))] = random.bytes(int(random.integers(1, 9)))
    return bytes(out)


def _cut(data: bytes, random: Random) -> bytes:
    return data[: int(random.integers(1, len(data)))]


def _repeat(data: bytes, random: Random) -> bytes:
    start, end = sorted(int(n) for n in random.integers(0, len(data), 2))
    return data[:end] + data[start:end] + data[end:]


def _on_model(change: Callable[[onnx.ModelProto, Random], None]) -> Callable[[bytes, Random], bytes]:
    def way(data: bytes, random: Random) -> bytes:
        model = onnx.load_from_string(data)
        change(model, random)
        return bytes(model.SerializeToString())

    return way


def _one(items: Any, random: Random) -> Any:
    return items[int(random.integers(len(items)))]


def _operator(model: onnx.ModelProto, random: Random) -> None:
    _one(model.graph.node, random).op_type = _one(_OPERATORS.split(), random)


def _rewire(model: onnx.ModelProto, random: Random) -> None:
    names = [n for node in model.graph.node for n in (*node.input, *node.output)] + ["", "nowhere"]
    node = _one(model.graph.node, random)
    ends = _one((node.input, node.output), random)
    ends[int(random.integers(len(ends)))] = _one(names, random)


def _ends(model: onnx.ModelProto, random: Random) -> None:
    node = _one(model.graph.node, random)
    ends = _one((node.input, node.output), random)
    if random.random() < 0.5:
        ends.pop()
    else:
        ends.extend([_one(list(ends) or ["x"], random)] * int(random.integers(1, 5)))


def _attribute(model: onnx.ModelProto, random: Random) -> None:
    node = _one([n for n in model.graph.node if n.attribute], random)
    attribute = _one(node.attribute, random)
    what = int(random.integers(5))
    if what == 0:
        node.attribute.remove(attribute)
    elif what == 1:
        attribute.name = _one(("axis", "axes", "kernel_shape", "perm", "to", "alpha", "x"), random)
    elif what == 2:
        attribute.i = _one(_NUMBERS, random)
    elif what == 3:
        attribute.ints.extend([_one(_NUMBERS, random)] * int(random.integers(1, 4)))
    else:
        attribute.type = int(random.integers(0, 15))


def _new_attribute(model: onnx.ModelProto, random: Random) -> None:
    values = (_one(_NUMBERS, random), [_one(_NUMBERS, random)] * 3, 1e38, "text")
    name = _one(("axis", "axes", "group", "strides", "dilations", "pads", "perm", "to", "alpha", "mode"), random)
    _one(model.graph.node, random).attribute.append(onnx.helper.make_attribute(name, _one(values, random)))


def _weight(model: onnx.ModelProto, random: Random) -> None:
    tensor = _one(model.graph.initializer, random)
    what = int(random.integers(4))
    if what == 0:
        tensor.dims[int(random.integers(len(tensor.dims)))] = _one(_NUMBERS, random)
    elif what == 1:
        tensor.data_type = int(random.integers(0, 25))
    elif what == 2:
        tensor.raw_data = tensor.raw_data[: int(random.integers(len(tensor.raw_data) + 1))]
    else:
        tensor.raw_data = random.bytes(len(tensor.raw_data))


def _shape(model: onnx.ModelProto, random: Random) -> None:
    image = _one(model.graph.input, random).type.tensor_type
    what = int(random.integers(3))
    if what == 0:
        _one(image.shape.dim, random).dim_value = _one(_NUMBERS, random)
    elif what == 1:
        image.elem_type = int(random.integers(0, 25))
    else:
        image.shape.dim.pop()


def _names(model: onnx.ModelProto, random: Random) -> None:
    what = int(random.integers(4))
    if what == 0:
        _one(model.graph.output, random).name = "nowhere"
    elif what == 1:
        _one(model.graph.input, random).name = _one(model.graph.node, random).output[0]
    elif what == 2:
        model.opset_import[0].version = int(random.integers(-1, 40))
    else:
        model.graph.initializer.append(_one(model.graph.initializer, random))


def _nodes(model: onnx.ModelProto, random: Random) -> None:
    node = _one(model.graph.node, random)
    if random.random() < 0.5:
        model.graph.node.remove(node)
    else:
        model.graph.node.insert(int(random.integers(len(model.graph.node))), node)


_BYTE_WAYS = (_flip, _overwrite, _cut, _repeat)
_FIELD_WAYS = tuple(
    map(_on_model, (_operator, _rewire, _ends, _attribute, _new_attribute, _weight, _shape, _names, _nodes))
)


def try_file(tensorrt: TensorRt, data: bytes) -> Outcome:
    """Build in a forked process, with nothing of this one's at stake."""
    with tempfile.TemporaryFile() as said:
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _build_and_exit(tensorrt, data, said.fileno())
        status, usage = _wait(child, began)
        hung = time.monotonic() - began > _PATIENCE_S
        said.seek(0)
        text = said.read().decode(errors="replace")
    kind, _, text = text.partition("\n")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        kind = "hung" if number == signal.SIGKILL and hung else f"signal {number}"
    seconds, peak_mb = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6
    return Outcome(kind or f"raised exit {os.WEXITSTATUS(status)}", seconds, peak_mb, text)


def _build_and_exit(tensorrt: TensorRt, data: bytes, said: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    try:
        build_engine(tensorrt, data, SPEC)
        text = "built\n"
    except (InputError, UnavailableError) as error:
        text = f"refused\n{error}"
    except BaseException as error:
        text = f"raised {type(error).__name__}\n{error}"
    os.write(said, text.encode(errors="replace"))
    os._exit(0)


def _wait(child: int, began: float) -> tuple[int, Any]:
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return status, usage
        if time.monotonic() - began > _PATIENCE_S:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)


def contained(tensorrt: TensorRt, data: bytes) -> str:
    """What the user's way says about a file that ends its process; raises what it must not raise."""
    try:
        build_apart(tensorrt, data, SPEC)
    except UnavailableError as error:
        if "\n" not in str(error):
            return str(error)
    except PosterEdgeError as error:
        raise AssertionError(f"exit code {error.exit_code}: {error}") from error
    raise AssertionError("not one line of an UnavailableError")


def campaign(count: int, *, seed: int = 0, keep: Path | None = None) -> dict[str, Any]:
    """Try ``count`` damaged files; ``keep`` gets those that ended their process or did what they must not."""
    tensorrt, originals = load(RTX), seeds()
    for name, data in originals.items():
        assert try_file(tensorrt, data).kind == "built", f"{name} is whole and must be built"
    kinds: Counter[str] = Counter()
    faults: list[str] = []
    crashes: dict[str, str] = {}
    slowest = largest = 0.0
    for index in range(count):
        random = np.random.default_rng([seed, index])
        name = list(originals)[index % len(originals)]
        data = damaged(originals[name], random)
        if data == originals[name]:
            data = _flip(data, random)
        outcome = try_file(tensorrt, data)
        kinds[outcome.kind] += 1
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.peak_mb)
        if outcome.fault:
            faults.append(f"{index} ({name}): {outcome.fault}")
        if outcome.kind.startswith("signal"):
            try:
                crashes[f"{index} ({name}): {outcome.kind}"] = contained(tensorrt, data)
            except AssertionError as error:
                faults.append(f"{index} ({name}): {error}")
        if keep is not None and (outcome.fault or outcome.kind.startswith("signal")):
            (keep / f"{index}.onnx").write_bytes(data)
    return {
        "files": count,
        "seed": seed,
        "graphs": list(originals),
        "outcomes": dict(sorted(kinds.items())),
        "slowest_cpu_s": round(slowest, 2),
        "largest_mb": round(largest),
        "ended_their_process_and_were_contained": crashes,
        "faults": faults,
        "tensorrt_rtx": tensorrt.version,
    }


def main() -> None:
    """Run the campaign, print its record, write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, default=RESULTS / "broken_onnx.json")
    parser.add_argument("--keep", type=Path, help="folder for the files that ended their process")
    args = parser.parse_args()
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    report = campaign(args.count, seed=args.seed, keep=args.keep)
    text = json.dumps({"environment": environment(), **report}, indent=1) + "\n"
    args.record.write_text(text)
    print(text)
    sys.exit(1 if report["faults"] else 0)


if __name__ == "__main__":
    main()
