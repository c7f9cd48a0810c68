"""onnxruntime runner; the provider that was asked for is the one that runs, or it is an error."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from poster_edge.errors import PosterEdgeError, UnavailableError
from poster_edge.export.gpu import Gpu
from poster_edge.export.onnx_bytes import check_self_contained
from poster_edge.runtime.bundle import Bundle
from poster_edge.runtime.int8_sums import pairs_fit, sums_int8_exactly
from poster_edge.runtime.manifest import BundleError
from poster_edge.runtime.ort_lanes import Lanes, cores
from poster_edge.runtime.provider_cache import ProviderCache
from poster_edge.runtime.providers import (
    PROFILE,
    PROVIDERS,
    Provider,
    check_present,
    elsewhere,
    find_provider,
    one_line,
    open_session,
    provider_options,
    require_provider,
)
from poster_edge.runtime.runner import check_fit

#: A folder that does not exist: a model that asks for external data finds none.
_NOWHERE = "/nonexistent/poster-edge-refuses-external-data"
#: Packages whose versions an engine depends on.
_ENGINE_PACKAGES = ("tensorrt", "onnxruntime-ep-nv-tensorrt-rtx-cu13", "onnxruntime-ep-nv-tensorrt-rtx-cu12")


class OrtRunner:
    """Runs a bundle's ONNX model through onnxruntime.

    Args:
        bundle: an opened bundle.
        precision: which of its models.
        device: "auto", "cpu", "cuda:N", "tensorrt:N" or "tensorrt-rtx:N".
        threads: to compute with, see :mod:`poster_edge.runtime.ort_lanes`; None leaves the choice to onnxruntime.
        notify: told in one line when "auto" had to pass over a GPU.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "fp32",
        device: str = "auto",
        threads: int | None = None,
        notify: Callable[[str], None] | None = None,
    ) -> None:
        self.bundle, self.threads = bundle, threads
        self._precision, self._device, self._notify = precision, device, notify
        self._stack = ExitStack()
        self._session: ort.InferenceSession | None = None
        self._lanes: Lanes | None = None
        self._profile: tuple[Path, Path] | None = None
        provider = find_provider(device, precision)
        if device != "auto":
            check_present(provider)
        self._use(provider)

    def _use(self, provider: Provider) -> None:
        self.provider = provider
        self.gpu: Gpu | None = None
        self.file = self.bundle.model_file(self._precision, placement=provider.placement or "inputs")
        self.description = f"onnxruntime {ort.__version__}"

    def __enter__(self) -> OrtRunner:
        try:
            self._open()
        except UnavailableError as error:
            self._close()
            # A broken model is broken on the CPU too, and a GPU that was asked for by name is not replaced.
            if self._device != "auto" or self.provider.kind == "cpu" or isinstance(error, BundleError):
                raise
            if self._notify:
                self._notify(f"{error}; the CPU runs the model instead")
            self._use(PROVIDERS["cpu"])
            self._open()
        except BaseException:
            self._close()
            raise
        return self

    def _open(self) -> None:
        provider, manifest = self.provider, self.bundle.manifest
        self.gpu = require_provider(provider)
        data = self.bundle.read(self.file)
        if provider.kind != "cpu":
            self._check_bytes(data)
        cache = self._stack.enter_context(ProviderCache(self._key(data))) if provider.builds_engines else None
        options = provider_options(
            provider,
            image=manifest.input_name,
            size=manifest.preprocess.size,
            cache_folder=cache.folder if cache else None,
        )
        session = self._start(data, self._settings(data), options)
        inputs = {i.name: i.shape for i in session.get_inputs()}
        check_fit(self.file, manifest, inputs, {o.name: o.shape for o in session.get_outputs()})
        others = elsewhere(session, provider)
        if cache:
            cache.publish()
        self._session = session
        if provider.kind == "cpu" and not self._profile:
            self._lanes = Lanes(self.threads or cores(), self._open_again)
        self.description = f"onnxruntime {ort.__version__} ({self._what(others.total())})"

    def _open_again(self, threads: int) -> ort.InferenceSession:
        """Another session of the same model, which has been opened and checked before."""
        data = self.bundle.read(self.file)
        return self._start(data, self._settings(data, threads=threads), {})

    def _start(self, data: bytes, settings: ort.SessionOptions, options: dict[str, str]) -> ort.InferenceSession:
        provider = self.provider
        try:
            return open_session(data, settings, provider, options)
        except PosterEdgeError:
            raise
        except Exception as error:  # onnxruntime raises many types, UnicodeDecodeError among them
            on = "onnxruntime" if provider.kind == "cpu" else f"onnxruntime on {provider.label}"
            raise BundleError(f"{self.bundle.folder / self.file}: {on} cannot load it: {one_line(error)}") from error

    def _settings(self, data: bytes, *, threads: int | None = None) -> ort.SessionOptions:
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", _NOWHERE)
        if not sums_int8_exactly() and not pairs_fit(data):
            # x86 without VNNI adds products of 8 bits in 16: sums saturate, and INT8 is wrong by whole classes.
            # Elsewhere the same setting would only cost time, twice as much of it.
            settings.add_session_config_entry("session.x64quantprecision", "1")
        if threads := threads or self.threads:
            settings.intra_op_num_threads = threads
        if self._profile:
            settings.enable_profiling = True
            settings.profile_file_prefix, settings.optimized_model_filepath = map(str, self._profile)
            # It warns that the optimised file is good for this machine only; nobody keeps it.
            settings.log_severity_level = 4
        return settings

    def profile_to(self, prefix: Path, optimised: Path) -> None:
        """Have the session, once entered, time every node.

        Args:
            prefix: beginning of the profile's path.
            optimised: where the graph that really runs is written.
        """
        self._profile = (prefix, optimised)

    def end_profiling(self) -> Path:
        """End the profile that :meth:`profile_to` asked for; returns its file."""
        if self._session is None or self._profile is None:
            raise RuntimeError("end_profiling() without profile_to() or outside the runner")
        return Path(self._session.end_profiling())

    def _check_bytes(self, data: bytes) -> None:
        """Refuse data from elsewhere, compiled engines above all."""
        try:
            check_self_contained(data)
        except ValueError as error:
            raise BundleError(f"{self.bundle.folder / self.file}: {error}") from error

    def _key(self, data: bytes) -> dict[str, str]:
        """All that an engine depends on."""
        assert self.gpu is not None
        gpu = self.gpu
        versions = {}
        for package in _ENGINE_PACKAGES:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return {
            "model": hashlib.sha256(data).hexdigest(),
            "provider": self.provider.name,
            "onnxruntime": ort.__version__,
            "gpu": f"{gpu.name}, {gpu.compute_capability}",
            "driver": f"{gpu.driver}, CUDA {gpu.cuda}",
            "profile": str(PROFILE),
            **versions,
        }

    def _what(self, others: int) -> str:
        """Such as "CPU", or "TensorRT on NVIDIA H200, 3 nodes on the CPU"."""
        where = f" on {self.gpu.name}" if self.gpu else ""
        rest = f", {others} small nodes on the CPU" if others else ""
        tf32 = ", FP32 sums may be TF32" if self.provider.builds_engines and self._precision == "fp32" else ""
        return f"{self.provider.label}{where}{tf32}{rest}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        # TensorRT-RTX writes its cache when the session goes: before the cache is looked at.
        self._session = None
        if self._lanes:
            self._lanes.close()
        self._stack.close()

    def infer(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Execute the model once; see :class:`poster_edge.runtime.runner.Runner`."""
        if self._session is None:
            raise RuntimeError("infer() before the runner was entered")
        names = [o.name for o in self._session.get_outputs()]
        if self._lanes and self._lanes.serve(len(next(iter(feed.values())))):
            return dict(zip(names, self._lanes.run(names, feed), strict=True))
        parts = [self._run(self._session, names, part) for part in self._batches(feed)]
        outputs = parts[0] if len(parts) == 1 else [np.concatenate(same) for same in zip(*parts, strict=True)]
        return dict(zip(names, outputs, strict=True))

    def _batches(self, feed: Mapping[str, NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
        """The feed in batches that an engine takes."""
        largest = PROFILE[-1]
        count = len(next(iter(feed.values())))
        if not self.provider.builds_engines or count <= largest:
            return [dict(feed)]
        return [{n: a[i : i + largest] for n, a in feed.items()} for i in range(0, count, largest)]

    def _run(
        self, session: ort.InferenceSession, names: list[str], feed: dict[str, NDArray[Any]]
    ) -> list[NDArray[Any]]:
        if self.provider.kind == "cpu":
            return [np.asarray(o) for o in session.run(names, feed)]
        try:
            return [np.asarray(o) for o in session.run(names, feed)]
        except Exception as error:  # out of memory, a lost GPU: nothing that another provider should hide
            raise PosterEdgeError(f"{self.description} failed: {one_line(error)}") from error
