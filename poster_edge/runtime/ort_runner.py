"""onnxruntime runner; the provider that was asked for is the one that runs, or it is an error."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from poster_edge.errors import UnavailableError, UsageError
from poster_edge.runtime.bundle import Bundle
from poster_edge.runtime.int8_sums import pairs_fit
from poster_edge.runtime.manifest import BundleError
from poster_edge.runtime.runner import check_fit

#: A folder that does not exist: a model that asks for external data finds none.
_NOWHERE = "/nonexistent/poster-edge-refuses-external-data"


class OrtRunner:
    """Runs a bundle's ONNX model through onnxruntime.

    Args:
        bundle: an opened bundle.
        precision: which of its models.
        device: "auto", "cpu" or "cuda:N".
        threads: of one operator; None leaves the choice to onnxruntime.
    """

    def __init__(
        self, bundle: Bundle, *, precision: str = "fp32", device: str = "auto", threads: int | None = None
    ) -> None:
        self.bundle = bundle
        self.file = bundle.model_file(precision, placement="inputs-outputs")
        self.threads = threads
        self.provider, self.options = _provider(device)
        self.description = f"onnxruntime {ort.__version__}"
        self._session: ort.InferenceSession | None = None

    def __enter__(self) -> OrtRunner:
        data = self.bundle.read(self.file)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
        if not pairs_fit(data):
            # x86 without VNNI adds products of 8 bits in 16: sums saturate, and INT8 is wrong by whole classes.
            options.add_session_config_entry("session.x64quantprecision", "1")
        if self.threads:
            options.intra_op_num_threads = self.threads
        providers = [(self.provider, self.options)]
        try:
            self._session = ort.InferenceSession(data, options, providers=providers)
        except Exception as error:  # onnxruntime raises many types, UnicodeDecodeError among them
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BundleError(f"{self.bundle.folder / self.file}: onnxruntime cannot load it: {reason}") from error
        used = self._session.get_providers()[0]
        if used != self.provider:
            raise UnavailableError(f"{self.provider} was asked for but onnxruntime chose {used}; use --device cpu")
        inputs = {i.name: i.shape for i in self._session.get_inputs()}
        check_fit(self.file, self.bundle.manifest, inputs, {o.name: o.shape for o in self._session.get_outputs()})
        self.description = f"onnxruntime {ort.__version__} ({used.removesuffix('ExecutionProvider')})"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Execute the model once; see :class:`poster_edge.runtime.runner.Runner`."""
        if self._session is None:
            raise RuntimeError("infer() before the runner was entered")
        names = [o.name for o in self._session.get_outputs()]
        outputs = self._session.run(names, dict(feed))
        return {n: np.asarray(o) for n, o in zip(names, outputs, strict=True)}


def _provider(device: str) -> tuple[str, dict[str, Any]]:
    have = ort.get_available_providers()
    if device == "cpu" or (device == "auto" and "CUDAExecutionProvider" not in have):
        return "CPUExecutionProvider", {}
    index = "0" if device in ("auto", "cuda") else device.removeprefix("cuda:")
    if not index.isdigit():
        raise UsageError(f"--device {device}: expected auto, cpu or cuda:N")
    if "CUDAExecutionProvider" not in have:
        raise UnavailableError(
            f"--device {device}: this onnxruntime has no CUDA provider (it has {', '.join(have)}); "
            "install onnxruntime-gpu in its place, or use --device cpu"
        )
    return "CUDAExecutionProvider", {"device_id": index}
