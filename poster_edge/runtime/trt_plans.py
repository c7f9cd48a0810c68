"""Where a TensorRT plan comes from: this user's cache, a bundle whose plan was built here, or the builder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from poster_edge.errors import UnavailableError
from poster_edge.export.engine_key import EngineKey, engine_key
from poster_edge.export.engine_spec import EngineSpec
from poster_edge.export.tensorrt_api import TensorRt
from poster_edge.runtime.bundle import Bundle
from poster_edge.runtime.device_memory import Device
from poster_edge.runtime.engine_cache import EngineCache, differences
from poster_edge.runtime.trt_engine import TrtEngine

Progress = Callable[[float, str], None]
#: Fields of a key in which a bundle's plan may differ from what would be built, as they were chosen at export.
_FREE = ("profile", "flags", "compute_capabilities")


class PlanSource:
    """Finds, builds and opens the plan of a bundle's model.

    Args:
        bundle: an opened bundle.
        tensorrt: what opens and builds plans.
        spec: how one is built.
        file: name of the bundle's ONNX model.
        precision: of that model, for messages and the calibration's hash.
        trust_engine: take a plan from the bundle that was not built here.
        notify: told what happens.
        progress: told how far a build is, 0 to 1, and its phase.
    """

    def __init__(
        self,
        bundle: Bundle,
        tensorrt: TensorRt,
        spec: EngineSpec,
        *,
        file: str,
        precision: str,
        trust_engine: bool,
        notify: Callable[[str], None],
        progress: Progress | None = None,
    ) -> None:
        self._bundle, self._tensorrt, self._spec = bundle, tensorrt, spec
        self._file, self._precision, self._trust = file, precision, trust_engine
        self._notify, self._progress = notify, progress

    def open(self, device: Device) -> TrtEngine:
        """The engine, from a plan that may be deserialised.

        Raises:
            UnavailableError: it can be neither opened nor built, or the cache's folder is not safe.
            BundleError: the bundle is damaged.
        """
        onnx = self._bundle.read(self._file)
        key = self.key(device, onnx)
        cache = EngineCache(notify=self._notify)
        label = f"{self._bundle.manifest.model} {self._precision}"
        engine: TrtEngine | None = None
        if (plan := cache.find(key)) is not None:
            engine = self._try(plan, device)
            if engine is None:
                # Built here, not changed since, and yet refused: something that the key does not name is different.
                cache.forget(key)
        elif (plan := self._from_bundle(key, cache)) is not None:
            engine = self._try(plan, device)
        if engine is not None:
            return engine

        def build() -> bytes:
            timed = cache.timing_cache(self._tensorrt.flavour, device.gpu.name)
            spec = replace(self._spec, timing_cache=self._spec.timing_cache or timed)
            return build_plan(self._tensorrt, onnx, spec, self._progress, gpu=device.gpu.index)

        return TrtEngine(self._tensorrt, cache.plan(key, build, label=label), device)

    def _try(self, plan: bytes, device: Device) -> TrtEngine | None:
        """The engine, or None when TensorRT refuses the plan, which the user is told."""
        try:
            return TrtEngine(self._tensorrt, plan, device)
        except UnavailableError as error:
            self._notify(str(error))
            return None

    def key(self, device: Device, onnx: bytes) -> EngineKey:
        """Key of the plan for a device; ``export --format tensorrt`` makes the same."""
        calibration = self._bundle.manifest.calibration or {}
        return engine_key(
            self._tensorrt,
            self._spec,
            gpu=device.gpu,
            onnx_sha256=hashlib.sha256(onnx).hexdigest(),
            calibration=str(calibration.get("data_sha256", "")) if self._precision == "int8" else "",
        )

    def _from_bundle(self, key: EngineKey, cache: EngineCache) -> bytes | None:
        """A plan in the bundle that fits and that was built here, or that the user trusts."""
        plans = {n: a for n, a in self._bundle.manifest.artefacts.items() if n.startswith("engines/")}
        for name, artefact in plans.items():
            built = cache.ledger(artefact.sha256)
            if built is not None and _serves(built.fields, key):
                return self._bundle.read(name)
        name = f"engines/{key.digest}.plan"
        if name not in plans:
            return None
        if not self._trust:
            self._notify(
                f"{name} of the bundle was not built here by this user and is not opened, as a plan is a program "
                "(--trust-engine opens it)"
            )
            return None
        self._notify(f"{name} of the bundle is opened although it was not built here: --trust-engine")
        return self._bundle.read(name)


def _serves(built: Mapping[str, str], key: EngineKey) -> bool:
    """Whether a plan that was built here runs where the key's would."""
    named = [c for c in built.get("compute_capabilities", "").split(", ") if c]
    return not differences(built, key, besides=_FREE) and (not named or key.gpu_capability in named)


def build_plan(tensorrt: TensorRt, onnx: bytes, spec: EngineSpec, progress: Progress | None, *, gpu: int = 0) -> bytes:
    """Build a plan on this machine, in a process of its own.

    Raises:
        UnavailableError: the builder refuses the graph or breaks down over it; says why.
    """
    from poster_edge.export.engine_process import build_apart

    plan = build_apart(tensorrt, onnx, spec, progress=progress, gpu=gpu).plan
    if progress:
        progress(1.0, "done")
    return plan
