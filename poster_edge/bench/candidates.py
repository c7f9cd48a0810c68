"""What is compared: every combination of model, runtime and precision that was asked for or can serve here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from poster_edge.errors import UnavailableError, UsageError
from poster_edge.export.engine_plugin import PluginLibrary
from poster_edge.export.gpu import visible_gpus
from poster_edge.export.tensorrt_api import FLAVOURS, installed
from poster_edge.models.config import CONFIGS
from poster_edge.models.poster_config import PosterConfig
from poster_edge.optional import available
from poster_edge.runtime.bundle import Bundle
from poster_edge.runtime.manifest import PRECISIONS

TORCH, COMPILED = "torch", "torch-compile"
#: What ``--runtime`` takes here; "torch-compile" exists for comparison only.
RUNTIMES = ("onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", TORCH, COMPILED)
#: "model": a batch of images to logits; "frame": a decoded frame to its result, through the pipeline's stages.
SCOPES = ("model", "frame")


@dataclass(frozen=True)
class Candidate:
    """One thing that is timed, in a process of its own.

    Attributes:
        model: bundle that is opened: a folder or a packaged name.
        name: of the model, as its manifest calls it.
        runtime: one of :data:`RUNTIMES`.
        precision: of the model.
        batch: images per call; 1 for a frame.
        threads: None leaves the choice to the runtime.
        scope: one of :data:`SCOPES`.
        device: "auto", "cpu", "cuda:N".
        checkpoint: weights for PyTorch, where the bundle has none.
        plugin: library with a TensorRT plugin for the cross-fusion, "" without one.
        asked: whether it was asked for by name, so that failing it is an error.
        baseline: whether the others of its model are compared with it.
    """

    model: str
    name: str
    runtime: str
    precision: str
    batch: int = 1
    threads: int | None = None
    scope: str = "model"
    device: str = "auto"
    checkpoint: str = ""
    plugin: str = ""
    asked: bool = False
    baseline: bool = False

    @property
    def label(self) -> str:
        """Such as "onnxruntime int8", or "PyTorch eager"."""
        names = {TORCH: "PyTorch eager", COMPILED: "torch.compile"}
        name = names.get(self.runtime, self.runtime) + (" with plugin" if self.plugin else "")
        return name if self.runtime in names and self.precision == "fp32" else f"{name} {self.precision}"

    @property
    def weights(self) -> tuple[str, ...]:
        """What decides over its answers: batch, threads and scope do not."""
        return (self.model, self.runtime, self.precision, self.device, self.plugin)

    @property
    def kernels(self) -> str | None:
        """What computes the cross-fusion in PyTorch: its own attention, not the fused kernels of this project."""
        return "sdpa" if isinstance(CONFIGS.get(self.name), PosterConfig) else None


@dataclass(frozen=True)
class Wanted:
    """What was asked for; an empty tuple is "whatever can serve".

    Attributes:
        runtimes: some of :data:`RUNTIMES`.
        precisions: some of "fp32", "fp16", "int8", and for torch "bf16".
        batches, threads: each combination is a comparison of its own.
        device: for all.
        baseline: "auto", "torch" or "onnxruntime".
        checkpoint: weights for PyTorch, where a bundle has none.
        plugin: a TensorRT plugin: each TensorRT that is timed is timed with it too.
        frames: also time decoded frames to results.
    """

    runtimes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    batches: tuple[int, ...] = (1,)
    threads: tuple[int | None, ...] = (None,)
    device: str = "auto"
    baseline: str = "auto"
    checkpoint: Path | None = None
    plugin: PluginLibrary | None = None
    frames: bool = False


@dataclass(frozen=True)
class Comparison:
    """Candidates that take turns: one batch size, one number of threads, one scope."""

    scope: str
    batch: int
    threads: int | None
    candidates: tuple[Candidate, ...]


def comparisons(bundles: Sequence[tuple[str, Bundle]], wanted: Wanted) -> tuple[list[Comparison], list[str]]:
    """All comparisons, and lines to the user about what is not among them.

    Args:
        bundles: what each model was called, and its bundle.
        wanted: what was asked for.

    Raises:
        UnavailableError: a baseline, runtime or precision that was asked for cannot be had.
        UsageError: an unknown name.
    """
    _check_names(wanted)
    chosen: list[Candidate] = []
    notes: list[str] = []
    for model, bundle in bundles:
        found, said = _of_model(model, bundle, wanted)
        chosen += found
        notes += said
    scopes = SCOPES if wanted.frames else SCOPES[:1]
    out = []
    for scope, threads in product(scopes, wanted.threads):
        # A frame has as many faces as it has.
        for batch in wanted.batches if scope == "model" else (1,):
            fits = (c for c in chosen if scope == "model" or c.runtime != COMPILED)
            same = tuple(replace(c, scope=scope, batch=batch, threads=threads) for c in fits)
            out.append(Comparison(scope, batch, threads, same))
    if wanted.frames and any(c.runtime == COMPILED for c in chosen):
        notes.append("torch.compile is timed as a model alone: it would compile anew for each number of faces")
    return out, notes


def _check_names(wanted: Wanted) -> None:
    known = (*PRECISIONS, "bf16")
    for option, given, names in (("--runtime", wanted.runtimes, RUNTIMES), ("--precision", wanted.precisions, known)):
        for name in given:
            if name not in names:
                raise UsageError(f"{option} {name}: expected some of {', '.join(names)}, separated by commas")


def _of_model(model: str, bundle: Bundle, wanted: Wanted) -> tuple[list[Candidate], list[str]]:
    have = tuple(dict.fromkeys(a.precision for a in bundle.manifest.artefacts.values() if a.precision))
    common: dict[str, Any] = {
        "model": model,
        "name": bundle.manifest.model,
        "device": wanted.device,
        "checkpoint": str(wanted.checkpoint or ""),
    }
    baseline, notes = _baseline(bundle, wanted)
    runtimes = wanted.runtimes or tuple(r for r in _serving(wanted.device) if have)
    pairs = []
    for runtime in runtimes:
        found = _precisions(runtime, have, wanted)
        if not found:
            raise UnavailableError(
                f"--runtime {runtime} computes in fp32, fp16 or bf16, not in {', '.join(wanted.precisions)}"
            )
        pairs += [(runtime, p) for p in found]
    asked = bool(wanted.runtimes or wanted.precisions)
    _check_served(wanted, pairs)
    others = [Candidate(**common, runtime=r, precision=p, asked=asked) for r, p in pairs if (r, p) != baseline]
    others += _with_plugin(bundle, runtimes, wanted.plugin, common)
    first = Candidate(**common, runtime=baseline[0], precision=baseline[1], baseline=True, asked=True)
    return [first, *others], notes


def _with_plugin(
    bundle: Bundle, runtimes: tuple[str, ...], plugin: PluginLibrary | None, common: dict[str, Any]
) -> list[Candidate]:
    """Every TensorRT that is timed once more, with the plugin."""
    if plugin is None:
        return []
    flavours = [r for r in runtimes if r in FLAVOURS]
    if not flavours:
        raise UsageError(f"--plugin is for TensorRT, which is not among {', '.join(runtimes)}: add --runtime tensorrt")
    bundle.plugin_file(plugin.precision)
    made = {**common, "precision": plugin.precision, "plugin": str(plugin.path), "asked": True}
    return [Candidate(**made, runtime=r) for r in flavours]


def _baseline(bundle: Bundle, wanted: Wanted) -> tuple[tuple[str, str], list[str]]:
    """Runtime and precision of the baseline, and what is to be said about it."""
    missing = ""
    if not wanted.checkpoint and not any(n.endswith(".safetensors") for n in bundle.manifest.artefacts):
        missing = f"{bundle.folder} has no weights for PyTorch; give them with --checkpoint FILE.safetensors"
    elif not available("torch") or not available("safetensors"):
        missing = "PyTorch is not installed: pip install 'poster-edge[train]'"
    if missing and (wanted.baseline == TORCH or {TORCH, COMPILED} & set(wanted.runtimes)):
        raise UnavailableError(f"--baseline torch, --runtime torch: {missing}")
    if wanted.baseline == "onnxruntime":
        return ("onnxruntime", "fp32"), []
    if missing:
        return ("onnxruntime", "fp32"), [f"there is no PyTorch baseline, onnxruntime fp32 takes its place: {missing}"]
    return (TORCH, "fp32"), []


def _serving(device: str) -> list[str]:
    """Runtimes that are there for this device, not loaded yet."""
    found = ["onnxruntime"]
    if device in ("auto", "cpu") and available("openvino"):
        found.append("openvino")
    if device != "cpu" and visible_gpus():
        found += [f for f in FLAVOURS if installed(f)]
    return found


def _precisions(runtime: str, have: tuple[str, ...], wanted: Wanted) -> list[str]:
    """Precisions in which a runtime is timed; torch computes the weights in other types than the files have."""
    if runtime in (TORCH, COMPILED):
        return [p for p in wanted.precisions if p != "int8"] if wanted.precisions else ["fp32"]
    return [p for p in wanted.precisions if p != "bf16"] if wanted.precisions else list(have)


def _check_served(wanted: Wanted, pairs: list[tuple[str, str]]) -> None:
    """Every precision that was asked for is timed in one runtime at least."""
    for precision in wanted.precisions:
        if precision not in {p for _, p in pairs}:
            raise UnavailableError(
                f"--precision {precision}: none of {', '.join(wanted.runtimes) or 'the runtimes'} has it"
            )
