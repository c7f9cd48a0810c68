"""PyTorch runner: a bundle's own weights, or a checkpoint, with the fused kernels where they serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from poster_edge.errors import PosterEdgeError, UnavailableError, UsageError
from poster_edge.optional import require
from poster_edge.runtime.bundle import WEIGHTS_FILE, Bundle
from poster_edge.runtime.manifest import BundleError
from poster_edge.runtime.runner import check_fit

if TYPE_CHECKING:
    import torch

    from poster_edge.runtime.torch_graphs import CudaGraphs

#: Precision -> torch's name of the type that weights and activations have.
TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class TorchRunner:
    """Runs the network itself, from a bundle's ``model.safetensors`` or from a checkpoint.

    Entering computes one black picture: what cannot be served fails there, and :attr:`description` names the
    kernels that computed.

    Args:
        bundle: an opened bundle, or :func:`poster_edge.runtime.checkpoint_bundle.checkpoint_bundle`.
        precision: "fp32", "fp16" or "bf16"; "auto" is "fp32".
        device: "auto", "cpu" or "cuda:N".
        threads: of one operator on the CPU; None leaves the choice to torch.
        kernels: what computes the cross-fusion, a key of :mod:`poster_edge.kernels.dispatch`; it serves or
            raises.  None: ``POSTER_EDGE_KERNELS``, else the best that serves.
        cuda_graph: capture the forward pass once for each batch size and replay it; on a GPU only.
        compiled: have torch.compile translate what the kernels do not compute, see
            :mod:`poster_edge.models.translated`; from the second batch size on for any.

    Attributes:
        precision: of weights and activations.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        kernels: str | None = None,
        cuda_graph: bool = False,
        compiled: bool = False,
    ) -> None:
        self.precision = _precision(precision)
        self.file = weights_file(bundle)
        self._torch = require("torch", purpose="run a model through torch")
        require("safetensors", purpose="read the weights of a model")
        from poster_edge.kernels import dispatch

        self._dispatch = dispatch
        self._kernels = dispatch.asked() if kernels is None else kernels
        dispatch.parse(self._kernels)
        self.bundle, self._threads = bundle, threads
        self._cuda_graph, self._compiled = cuda_graph, compiled
        self._translated: Callable[[], AbstractContextManager[None]] = nullcontext
        self._device = _device(self._torch, device)
        if cuda_graph and self._device.type != "cuda":
            raise UnavailableError(
                f"--cuda-graph: only a GPU has CUDA graphs, and the model runs on '{self._device}'; leave it out, "
                "or name a GPU with --device cuda:0"
            )
        self.description = f"torch {_version(self._torch)}"
        self._model: Any = None
        self._graphs: CudaGraphs | None = None
        self._stack: ExitStack | None = None

    def __enter__(self) -> TorchRunner:
        with ExitStack() as stack:
            if self._threads:
                stack.callback(self._torch.set_num_threads, self._torch.get_num_threads())
                self._torch.set_num_threads(self._threads)
            stack.callback(self._forget)
            self._model = self._load()
            if self._compiled:
                from poster_edge.models.translated import translatable, translate

                translate(self._model)
                self._translated = translatable
            ran = self._first_run()
            if self._cuda_graph:
                from poster_edge.runtime.torch_graphs import CudaGraphs

                self._graphs = CudaGraphs(self._model)
            names = " + ".join(ran) or "none"
            if self._dispatch.interpreting() and any(n.startswith("triton") for n in ran):
                names += ", interpreted"
            where = self._torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "CPU"
            more = (", torch.compile" if self._compiled else "") + (", CUDA graph" if self._cuda_graph else "")
            self.description = f"torch {_version(self._torch)} ({where}, {self.precision}, kernels {names}{more})"
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            stack.close()

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Execute the model once; see :class:`poster_edge.runtime.runner.Runner`.

        Raises:
            ValueError: another input than the manifest's.
            PosterEdgeError: the GPU is out of memory, or the forward pass cannot be captured or translated.
        """
        if self._model is None:
            raise RuntimeError("infer() before the runner was entered")
        manifest = self.bundle.manifest
        if list(feed) != [manifest.input_name]:
            raise ValueError(f"the feed has {list(feed)}, the network takes '{manifest.input_name}'")
        with self._settings(), _failures(self._torch), self._translated():
            x = self._torch.from_numpy(np.ascontiguousarray(feed[manifest.input_name]))
            x = x.to(self._device, self._dtype)
            out = self._graphs.run(x) if self._graphs is not None else self._model(x)
            # B x C; torch has no NumPy type for bfloat16.
            return {manifest.output_name: out.float().cpu().numpy()}

    @property
    def network(self) -> Any:
        """The module that computes, while the runner is entered."""
        return self._model

    @property
    def _dtype(self) -> torch.dtype:
        return getattr(self._torch, TYPES[self.precision])

    def _load(self) -> Any:
        from poster_edge.models.checkpoint import build_model, parse_checkpoint

        path = self.bundle.folder / self.file
        state, info = parse_checkpoint(self.bundle.read(self.file), path)
        manifest = self.bundle.manifest
        if (info.classes, info.preprocess) != (manifest.classes, manifest.preprocess):
            raise BundleError(f"{path}: its classes or preprocessing are not the manifest's; export the bundle again")
        return build_model(state, info, str(path)).requires_grad_(False).to(self._device, self._dtype)

    def _first_run(self) -> list[str]:
        """Compute one picture and check its shape; names of the kernels that computed."""
        size, manifest = self.bundle.manifest.preprocess.size, self.bundle.manifest
        picture = np.zeros((1, 3, size, size), np.float32)
        with self._dispatch.recorded() as ran:
            out = self.infer({manifest.input_name: picture})
        shapes = {manifest.input_name: picture.shape}, {n: a.shape for n, a in out.items()}
        check_fit(self.file, manifest, *shapes)
        if self._kernels != "auto" and self._kernels not in ran:
            computed = f"its attention ran on {' + '.join(sorted(ran))}" if ran else "it has no attention"
            raise UnavailableError(
                f"kernels '{self._kernels}' were asked for, but {manifest.model} has nothing for them: {computed}"
            )
        return sorted(ran)

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """Inference, the kernels that were asked for, and float32 that is float32 in convolutions too."""
        convolutions = self._torch.backends.cudnn
        with ExitStack() as stack:
            stack.enter_context(self._torch.inference_mode())
            stack.enter_context(self._dispatch.use(self._kernels))
            if self._device.type == "cuda":
                # Kernels of our own are launched on the current device.
                stack.enter_context(self._torch.cuda.device(self._device))
            # torch rounds the inputs of float32 convolutions to TF32, unless told not to.
            before = convolutions.allow_tf32
            convolutions.allow_tf32 = False
            try:
                yield
            finally:
                convolutions.allow_tf32 = before

    def _forget(self) -> None:
        self._model = self._graphs = None


def weights_file(bundle: Bundle) -> str:
    """Name of the file with a bundle's weights.

    Raises:
        BundleError: it has none; says what to do.
    """
    names = [n for n in bundle.manifest.artefacts if n.endswith(".safetensors")]
    if not names:
        raise BundleError(
            f"{bundle.folder}: has no {WEIGHTS_FILE}, which --runtime torch runs (bundles of large models go without); "
            "run the checkpoint itself: --model FILE.safetensors"
        )
    return names[0]


def _precision(name: str) -> str:
    name = "fp32" if name == "auto" else name
    if name not in TYPES:
        raise UnavailableError(
            f"--precision {name}: torch computes in {', '.join(TYPES)}; INT8 runs on --runtime onnxruntime, openvino "
            "or tensorrt, and --kernels triton:int8 takes INT8 weights with --precision fp16"
        )
    return name


def _device(torch: Any, name: str) -> torch.device:
    """The device that ``--device`` names; "auto": the first GPU, else the CPU."""
    kind, _, index = name.partition(":")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda") and not (kind == "cuda" and index.isdigit()):
        raise UsageError(f"--device {name}: expected auto, cpu or cuda:N with --runtime torch")
    number = int(index or 0)
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else f"; torch {torch.__version__} is built without CUDA"
        raise UnavailableError(f"--device {name}: torch sees no NVIDIA GPU here{built}; use --device cpu")
    if number >= torch.cuda.device_count():
        raise UnavailableError(f"--device {name}: torch sees {torch.cuda.device_count()} GPU(s), numbered from 0")
    return torch.device("cuda", number)


@contextmanager
def _failures(torch: Any) -> Iterator[None]:
    """What a user can do something about in one line; anything else keeps its traceback."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise PosterEdgeError(
            f"the GPU is out of memory ({str(error).splitlines()[0]}): use smaller batches"
        ) from error


def _version(package: Any) -> str:
    """Such as "2.13.0", without the build."""
    return str(package.__version__).partition("+")[0]
