"""Cases on which the fused kernels are compared: poster-nano, and POSTER with rebuildable weights.

Without a GPU they run in Triton's interpreter, which is chosen here, before anything imports triton.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from poster_edge.kernels.chain import Launcher, run  # noqa: E402
from poster_edge.kernels.launch import Launch  # noqa: E402
from poster_edge.kernels.numerics import BARS, NAN, Row, Stage, depth_rows, relative  # noqa: E402
from poster_edge.kernels.pack import ACTIVATIONS  # noqa: E402
from poster_edge.models import fused  # noqa: E402
from poster_edge.models.checkpoint import load_model  # noqa: E402
from poster_edge.models.config import CONFIGS  # noqa: E402
from poster_edge.models.fusion import FusionStage  # noqa: E402
from poster_edge.models.official import recognise  # noqa: E402
from poster_edge.models.poster import Poster  # noqa: E402

NANO = ROOT / "poster_edge" / "zoo" / "poster-nano" / "model.safetensors"
#: Cases with poster-nano's weights; the others take poster's, from --golden.
SMALL = ("nano", "no-mix")
#: Batches reach: one tile of 64 rows, a partly filled tile of 128, one that a sample straddles, several.
BATCHES = (1, 2, 3, 8)


def launcher() -> Launcher:
    """Triton's launcher; raises where triton is missing."""
    from poster_edge.kernels.triton.jit import launch

    return launch


def coarse(launch: Launcher) -> Launcher:
    """The same kernels with steps of up to 512 columns: several times faster in the interpreter."""

    def run_coarse(step: Launch, tensors: dict[str, Any]) -> None:
        constants = {**step.constants, **({"BLOCK_K": 512} if "BLOCK_K" in step.constants else {})}
        launch(replace(step, constants=constants), tensors)

    return run_coarse


def nano(batch: int) -> tuple[Poster, torch.Tensor]:
    """poster-nano and noise of a face's size (B, 3, 48, 48)."""
    model, _ = load_model(NANO)
    generator = torch.Generator().manual_seed(1)
    side = model.config.input_size
    return model.eval().requires_grad_(False), torch.randn(batch, 3, side, side, generator=generator)


def without_mix(stage: FusionStage) -> FusionStage:
    """The same weights in a depth without token mixing, as AffectNet's POSTER is built."""
    config = replace(CONFIGS["poster-nano"], mix=False)
    plain = FusionStage(config, 0.0).double().eval().requires_grad_(False)
    plain.load_state_dict({k: v for k, v in stage.state_dict().items() if ".conv." not in k})
    return plain


def golden(folder: Path) -> tuple[Poster, torch.Tensor]:
    """POSTER with rebuildable weights in every entry, and two images (2, 3, 224, 224)."""
    sys.path.insert(0, str(folder))
    import official_weights  # type: ignore[import-not-found]

    state = {k: torch.as_tensor(v) for k, v in official_weights.state_dict("large", 7).items()}
    model = Poster(recognise(state, "golden"))
    model.load_state_dict(state)
    return model.eval().requires_grad_(False), torch.from_numpy(official_weights.images(2))


def pyramid(model: Poster, x: torch.Tensor) -> list[torch.Tensor]:
    """What enters the first depth, in float64; the backbones run in float32."""
    small = model.subsample(x)
    tokens = model.image_tokens(small).double(), model.landmark_tokens(small).double()
    fusion = model.pyramid_fuse.double()
    return fusion.levels(*tokens)


def stage_rows(
    stage: FusionStage,
    levels: list[torch.Tensor],
    *,
    case: str,
    heads: int,
    device: str,
    precisions: list[str],
    launch: Launcher,
) -> Iterator[Row]:
    """Kernel by kernel and the whole depth, at each precision; a kernel that fails gives a row that says so."""
    state = {k: v.clone() for k, v in stage.state_dict().items()}
    for precision in precisions:

        def own(given: list[torch.Tensor]) -> list[torch.Tensor]:
            stage.to(given[0].device, given[0].dtype)
            try:
                return stage(given)
            finally:
                stage.to("cpu", torch.float64).load_state_dict(state)

        def job(precision: str = precision, own: Stage = own) -> list[Row]:
            return depth_rows(
                state, levels, launch, stage=own, case=case, heads=heads, precision=precision, device=device
            )

        yield from attempt(job, Row(case, "any", precision, "all", len(levels[0]), NAN, NAN, BARS[precision]))


def attempt(job: Callable[[], list[Row]], failed: Row) -> list[Row]:
    """A job's rows, or one row that names its error: one broken kernel must not hide the others."""
    try:
        return job()
    except Exception as error:
        lines = str(error).strip().splitlines()
        return [replace(failed, note=f"{type(error).__name__}: {lines[-1][:160] if lines else ''}")]


def logits_rows(model: Poster, x: torch.Tensor, *, device: str, precisions: list[str], launch: Launcher) -> list[Row]:
    """All depths chained, at the logits, beside PyTorch's own pyramid at the same precision."""
    levels = pyramid(model, x)
    fusion = model.pyramid_fuse
    state = {k: v.clone() for k, v in fusion.state_dict().items()}
    tail = model.double()

    def classify(first: torch.Tensor) -> torch.Tensor:
        feature = fusion.norm(first.double().cpu())
        return tail.head(tail.se_block(feature))

    def plain(given: list[torch.Tensor]) -> torch.Tensor:
        for stage in fusion.blocks:
            given = stage(given)
        return given[0][:, 0]

    expected = classify(plain(levels))
    rows = []
    for precision in precisions:
        dtype = ACTIVATIONS[precision]
        given = [t.to(device, dtype) for t in levels]

        def job(precision: str = precision, given: list[torch.Tensor] = given, dtype: torch.dtype = dtype) -> list[Row]:
            depths = [d.to(device) for d in fused.packed_depths(fusion, precision)]
            found = classify(run(given, depths, launch, poison=True))
            fusion.to(device, dtype)
            own = plain(given)
            fusion.to("cpu", torch.float64).load_state_dict(state)
            # The bar is that of one depth: errors of the depths hardly add up along the residual stream.
            errors = relative(found, expected), relative(classify(own), expected)
            return [Row("poster", "logits", precision, "all", len(x), *errors, BARS[precision] * 3)]

        rows += attempt(job, Row("poster", "logits", precision, "all", len(x), NAN, NAN, BARS[precision] * 3))
        fusion.to("cpu", torch.float64).load_state_dict(state)
    return rows


def numerics(
    cases: list[str], *, device: str, precisions: list[str], batches: tuple[int, ...], folder: Path | None
) -> list[Row]:
    """All rows of the named cases."""
    launch = launcher() if device == "cuda" else coarse(launcher())
    rows: list[Row] = []
    for name in [c for c in cases if c in SMALL]:
        for batch in batches:
            model, x = nano(batch)
            levels = pyramid(model, x)
            first = model.pyramid_fuse.blocks[0]
            rows += stage_rows(
                without_mix(first) if name == "no-mix" else first,
                levels,
                case=name,
                heads=model.config.heads,
                device=device,
                precisions=precisions,
                # The planned steps at least once, so that loops over columns run too.
                launch=launcher() if batch == 1 else launch,
            )
    if folder is not None and {"poster", "logits"} & set(cases):
        model, x = golden(folder)
        if "poster" in cases:
            levels = [t[:1] for t in pyramid(model, x)]
            stage = model.pyramid_fuse.blocks[0]
            rows += stage_rows(
                stage, levels, case="poster", heads=8, device=device, precisions=precisions, launch=launch
            )
        if "logits" in cases:
            rows += logits_rows(model, x[:1], device=device, precisions=precisions, launch=launch)
    return rows
