"""``poster-edge export --format tensorrt|tensorrt-rtx``: a verified engine beside the model it was built from."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from poster_edge.cli.options import NamedPath

if TYPE_CHECKING:
    from poster_edge.cli.export_draft import Draft
    from poster_edge.export.engine import BuiltEngine
    from poster_edge.export.engine_key import EngineKey
    from poster_edge.export.engine_spec import EngineSpec
    from poster_edge.export.tensorrt_api import TensorRt
    from poster_edge.runtime.bundle import Bundle
    from poster_edge.runtime.engine_cache import EngineCache
    from poster_edge.runtime.manifest import Manifest

_Command = TypeVar("_Command", bound=Callable[..., Any])

ENGINE_FORMATS = ("tensorrt", "tensorrt-rtx")
#: Options that go with these formats alone; ``--max-batch`` is Triton's too.
ENGINE_OPTIONS = ("min_batch", "opt_batch", "workspace", "compute_capability", "plugin")
#: Precision -> the model that TensorRT takes: INT8 with an FP16 rest, see README, "TensorRT".
MODELS = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8-inputs.onnx"}
_ONLY_TRUSTED = "'run' will open this engine only with --trust-engine"
_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1", "current")


def engine_options(command: _Command) -> _Command:
    """Add the options of engines; the command gets them as one, ``engine``."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> Any:
        own = {name: given.pop(name) for name in ENGINE_OPTIONS}
        return command(**given, engine=own)

    options = (
        click.option("--min-batch", type=click.IntRange(1, 1024), help="TensorRT: smallest batch [default: 1]."),
        click.option("--opt-batch", type=click.IntRange(1, 1024), help="TensorRT: batch it is tuned for [default: 1]."),
        click.option("--workspace", type=click.IntRange(1), metavar="MIB", help="TensorRT: limit of scratch memory."),
        click.option(
            "--compute-capability",
            type=click.Choice(_CAPABILITIES),
            multiple=True,
            help="TensorRT-RTX: of the GPUs the engine is for; may be repeated [default: the one that is here].",
        ),
        click.option(
            "--plugin",
            type=NamedPath(),
            help="TensorRT: library of 'kernels plugin' that computes the cross-fusion; --model has the graph for it.",
        ),
    )
    decorated: Any = wrapped
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def open_engine(
    flavour: str, given: dict[str, Any], *, precision: str, target: str, max_batch: int | None
) -> tuple[tuple[TensorRt, EngineSpec], str]:
    """TensorRT and what to build with it, before any long work, and the target of INT8 that goes with it.

    Raises:
        UsageError: options that contradict each other.
        UnavailableError: TensorRT is not there, too old, or has no GPU to build for; or there is no such plugin.
    """
    from poster_edge.errors import UnavailableError, UsageError
    from poster_edge.export.engine_plugin import open_plugin
    from poster_edge.export.engine_spec import EngineSpec, Profile
    from poster_edge.export.gpu import visible_gpus
    from poster_edge.export.tensorrt_api import RTX, load

    capabilities = given["compute_capability"]
    if capabilities and flavour != RTX:
        raise UsageError("--compute-capability goes with --format tensorrt-rtx: TensorRT builds for the GPU it runs on")
    if precision == "auto" or target not in ("all", "tensorrt"):
        raise UsageError(f"--format {flavour} goes with --precision fp32, fp16 or int8 and --target all or tensorrt")
    least = given["min_batch"] or 1
    best = given["opt_batch"] or least
    profile = Profile(least, best, max_batch or max(8, best))
    plugin = given["plugin"] and open_plugin(given["plugin"])
    spec = EngineSpec(
        flavour, profile, workspace_mib=given["workspace"], compute_capabilities=capabilities, plugin=plugin
    )
    tensorrt = load(flavour)
    if flavour == RTX and not visible_gpus() and set(capabilities) <= {"current"}:
        raise UnavailableError(
            "no NVIDIA GPU is visible here: say what the engine is for, such as --compute-capability 8.6 "
            f"({tensorrt.title} knows {', '.join(tensorrt.compute_capabilities)})"
        )
    tensorrt.builder()
    return (tensorrt, spec), "tensorrt"


def finished_bundle(model: str, precision: str | None) -> tuple[Bundle | None, str]:
    """A bundle that already holds the model to build from, and the precision of that model.

    Args:
        model: name or folder.
        precision: that was asked for; None: the bundle's own.

    Returns:
        None in place of the bundle where the model must be exported first.
    """
    from poster_edge.runtime.bundle import load_bundle, zoo_names

    if not Path(model).is_dir() and model not in zoo_names():
        return None, precision or "fp32"
    bundle = load_bundle(model)
    wanted = precision or bundle.manifest.precision
    return (bundle if MODELS[wanted] in bundle.manifest.artefacts else None), wanted


def bundle_for_plugin(model: str | None, asked: str | None, spec: EngineSpec) -> tuple[Bundle, str]:
    """The bundle with the graph for the plugin of ``spec``, and what the engine computes in outside of it.

    Args:
        model: name or folder; None: the weights come from elsewhere.
        asked: precision that was asked for, None for none.
        spec: how to build.

    Raises:
        UsageError: no finished bundle, or another precision than the plugin's.
        BundleError: the bundle has no such graph.
    """
    from poster_edge.errors import UsageError
    from poster_edge.runtime.bundle import load_bundle

    assert spec.plugin is not None
    if model is None:
        raise UsageError("--plugin takes a finished bundle with the graph of 'kernels graph': give it with --model")
    if asked not in (None, spec.plugin.precision):
        raise UsageError(f"--precision {asked}: the plugin's kernels compute in {spec.plugin.precision}; leave it out")
    bundle = load_bundle(model)
    bundle.plugin_file(spec.plugin.precision)
    return bundle, spec.plugin.activations


def add_engine(draft: Draft, tensorrt: TensorRt, spec: EngineSpec, precision: str, folder: Path) -> Draft:
    """Build an engine from one of the draft's models, verify it, and put it in.

    Args:
        draft: with that model.
        tensorrt: what builds.
        spec: how.
        precision: of the model; with a plugin, of what is outside it.
        folder: for the plan until the bundle is written.

    Raises:
        UnavailableError: it cannot be built, or does not compute in its precision.
    """
    from poster_edge.cli import console
    from poster_edge.export.engine_key import engine_key
    from poster_edge.export.engine_report import verify_engine
    from poster_edge.export.gpu import find_gpu
    from poster_edge.files import write_atomic
    from poster_edge.runtime.engine_record import ENGINE_FOLDER, EngineRecord
    from poster_edge.runtime.manifest import PLUGIN_FILES

    model = PLUGIN_FILES[spec.plugin.precision] if spec.plugin else MODELS[precision]
    onnx = draft.files[model].read_bytes()
    digest, gpu = hashlib.sha256(onnx).hexdigest(), find_gpu()
    cache = _open_cache()
    if cache is not None and gpu is not None:
        spec = replace(spec, timing_cache=cache.timing_cache(tensorrt.flavour, gpu.name))
    engine = _build(tensorrt, onnx, spec, f"{model} for {tensorrt.title}")
    floats = _floats_of_plugin(onnx) if spec.plugin else _floats(draft.manifest, model)
    report = verify_engine(tensorrt, engine, precision, floats=floats)
    calibration = str((draft.manifest.calibration or {}).get("data_sha256", "")) if precision == "int8" else ""
    key = engine_key(tensorrt, spec, gpu=gpu, onnx_sha256=digest, calibration=calibration)
    name = f"{ENGINE_FOLDER}/{key.digest}.plan"
    path = folder / name
    write_atomic(path, engine.plan)
    if cache is not None:
        _remember(cache, engine.plan, key)
    record = EngineRecord(
        flavour=tensorrt.flavour,
        tensorrt=tensorrt.version,
        gpu=key.gpu,
        compute_capabilities=key.compute_capabilities,
        precision=spec.plugin.precision if spec.plugin else precision,
        model=model,
        onnx_sha256=digest,
        profile=(spec.profile.min, spec.profile.opt, spec.profile.max),
        flags=spec.flags,
        seconds=round(engine.seconds, 1),
        warnings=engine.warnings,
        report=report.to_dict(),
    )
    console.message(f"{name}: {len(engine.plan) / 1e6:.1f} MB in {engine.seconds:.0f} s; {report}")
    for note in report.notes:
        console.message(f"{name}: {note}")
    manifest = replace(draft.manifest, engines={**draft.manifest.engines, name: record})
    return replace(draft, manifest=manifest, files={**draft.files, name: path})


def _open_cache() -> EngineCache | None:
    """This user's cache of engines, or None where its folder is refused, which is said."""
    from poster_edge.cli import console
    from poster_edge.errors import PosterEdgeError
    from poster_edge.runtime.engine_cache import EngineCache

    try:
        return EngineCache(notify=console.message)
    except PosterEdgeError as error:
        console.message(f"{error}; {_ONLY_TRUSTED}")
        return None


def _remember(cache: EngineCache, plan: bytes, key: EngineKey) -> None:
    """Note that the plan was built here, so that ``run`` opens it unasked."""
    from poster_edge.cli import console
    from poster_edge.errors import PosterEdgeError

    try:
        cache.remember(hashlib.sha256(plan).hexdigest(), key, size=len(plan))
    except PosterEdgeError as error:
        console.message(f"{error}; {_ONLY_TRUSTED}")


def _build(tensorrt: TensorRt, onnx: bytes, spec: EngineSpec, title: str) -> BuiltEngine:
    """Build with a bar on a terminal."""
    from poster_edge.cli import console
    from poster_edge.export.engine_process import build_apart

    console.message(f"building {title}, batches {spec.profile}; this can take minutes")
    with console.progress_bar() as bar:
        task = bar.add_task("building", total=100)

        def show(fraction: float, phase: str) -> None:
            bar.update(task, completed=int(100 * fraction), description=f"{phase[:40]:40}")

        return build_apart(tensorrt, onnx, spec, progress=show)


def _floats(manifest: Manifest, model: str) -> set[str]:
    """Nodes that the accuracy gate or FP16's range left in float."""
    gate = manifest.gate or {}
    restored = gate.get("models", {}).get(model, {}).get("restored", [])
    return {*restored, *gate.get("fp32_islands", [])}


def _floats_of_plugin(onnx: bytes) -> set[str]:
    """Nodes outside of the plugin that FP16's range left in float, as the graph itself says."""
    from poster_edge.export.onnx_bytes import metadata
    from poster_edge.kernels.plugin.names import FLOATS

    return set(metadata(onnx).get(FLOATS, "").splitlines())
