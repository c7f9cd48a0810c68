"""POSTER's ablation variants: counts against the published ones, behaviour, export, and the fused kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor

from poster_edge.errors import UnavailableError, UsageError
from poster_edge.export.onnx import export_onnx
from poster_edge.kernels import dispatch
from poster_edge.models.ablation import TABLES, table_rows
from poster_edge.models.build import build_network
from poster_edge.models.config import model_config
from poster_edge.models.counting import Counts, count
from poster_edge.models.network import Network, WithLandmarks
from poster_edge.models.poster import Poster
from poster_edge.models.poster_config import PosterConfig
from poster_edge.models.registry import PAPER_FLOPS, REGISTRY

#: Variant of "poster" -> millions of all and of the transformer's parameters, and 2 x multiply-adds in G.
BUILT = {
    "poster@landmark-only": (21.06, 19.52, 2.49),
    "poster@image-only": (51.04, 19.52, 13.05),
    "poster@image-only-1-level": (46.28, 14.77, 12.51),
    "poster@baseline": (47.35, 14.83, 14.50),
    "poster@baseline-pyramid": (52.51, 19.99, 15.75),
    "poster@baseline-cross": (62.07, 29.55, 14.50),
    "poster@levels-2": (69.71, 37.19, 15.45),
    "poster@levels-4": (72.64, 40.12, 15.85),
    "poster@q-proj": (77.37, 44.85, 16.30),
}
#: The same as published, where the paper gives them, in its own digits.
PUBLISHED = {
    "poster-t": (52.2, 19.7, 13.6),
    "poster-s": (62.0, 29.5, 14.7),
    "poster": (71.8, 39.3, 15.7),
}


def nano(variant: str) -> PosterConfig:
    config = model_config(f"poster-nano@{variant}" if variant else "poster-nano")
    assert isinstance(config, PosterConfig)
    return config


def built(variant: str) -> Network:
    """A network away from its start, where attention and mixing do little."""
    torch.manual_seed(0)
    network = build_network(nano(variant)).eval()
    for name, value in network.state_dict().items():
        if value.is_floating_point() and not name.endswith("running_var"):
            value.add_(torch.randn_like(value) * 0.05)
    return network


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def in_figures(counts: Counts) -> tuple[float, float, float]:
    return counts.parameters / 1e6, counts.fusion_parameters / 1e6, counts.paper_flops / 1e9


@pytest.mark.parametrize("name", BUILT)
def test_counts_of_the_variants(name: str) -> None:
    assert in_figures(count(model_config(name))) == pytest.approx(BUILT[name], abs=0.0051)


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    """Table 4: rounded or cut to one digit."""
    counts = count(model_config(name))
    assert in_figures(counts) == pytest.approx(PUBLISHED[name], abs=0.06)
    assert counts.paper_flops == PAPER_FLOPS[name]


def test_image_only_is_near_the_published_one() -> None:
    """19.7 and 50.8 M, 13.1 G are published; no plain reading meets all three, this one is within 1 %."""
    assert in_figures(count(model_config("poster@image-only"))) == pytest.approx((50.8, 19.7, 13.1), rel=0.01)


@pytest.mark.parametrize("name", ["poster-nano", "fer-vt-nano", "cf-dan-nano"])
def test_true_counts_are_the_registrys(name: str) -> None:
    counts, facts = count(model_config(name)), REGISTRY[name]
    assert (counts.parameters, counts.live_parameters, counts.flops, counts.paper_flops) == (
        facts.parameters,
        facts.live_parameters,
        facts.flops,
        PAPER_FLOPS[name],
    )


def test_the_papers_count_of_every_network_is_there() -> None:
    assert list(PAPER_FLOPS) == list(REGISTRY)


@pytest.mark.parametrize("table", TABLES)
def test_tables_of_the_published_network(table: str) -> None:
    config = model_config("poster")
    assert isinstance(config, PosterConfig)
    names = [c.variant.removeprefix("poster@") for _, c in table_rows(config, table)]
    assert (
        names
        == {
            "components": ["landmark-only", "image-only", "baseline", "baseline-pyramid", "baseline-cross", "poster"],
            "levels": ["levels-1", "levels-2", "poster", "levels-4"],
            "swap-depth": ["swap-0", "swap-1", "swap-2", "swap-4", "poster"],
            "depth": ["depth-4", "depth-6", "poster"],
        }[table]
    )


@pytest.mark.parametrize("table", TABLES)
def test_rows_of_the_small_tables_run(table: str) -> None:
    for _, config in table_rows(nano(""), table):
        network = build_network(config).eval()
        with torch.no_grad():
            assert network(images()).shape == (2, 7)
        assert model_config(config.variant) == config


def test_swapping_nowhere_is_self_attention_and_everywhere_is_the_published_network() -> None:
    whole, nowhere, everywhere = (built(v) for v in ("", "swap-0", "swap-2"))
    nowhere.load_state_dict(whole.state_dict())
    everywhere.load_state_dict(whole.state_dict())
    x = images()
    with torch.no_grad():
        assert torch.equal(everywhere(x), whole(x))
        assert not torch.allclose(nowhere(x), whole(x), atol=1e-3)
        block = nowhere.pyramid_fuse.blocks[0].block_l
        z = torch.randn(2, nano("").tokens, 128)
        changed = z.clone()
        changed[:, block.per_stream :] += 1
        # Without the mixing convolution the image stream of such a block sees no landmark token.
        block.mix = False
        seen = block(changed)[:, : block.per_stream] - block(z)[:, : block.per_stream]
        assert seen.abs().max() == 0


@pytest.mark.parametrize(("variant", "part"), [("image-only", "face_landback"), ("landmark-only", "ir_back")])
def test_one_stream_has_no_backbone_of_the_other(variant: str, part: str) -> None:
    network = build_network(nano(variant))
    assert not any(n.startswith(part) for n, _ in network.named_parameters())
    assert isinstance(network, WithLandmarks) == (variant == "landmark-only")


def test_frozen_landmarks_of_the_landmark_stream() -> None:
    network = build_network(nano("landmark-only"))
    assert isinstance(network, WithLandmarks)
    network.freeze_landmarks(batch_norm=True)
    assert not any(p.requires_grad for p in network.landmark_stream.parameters())
    assert not network.landmark_stream.training


@pytest.mark.parametrize("variant", ["landmark-only", pytest.param("swap-1", marks=pytest.mark.campaign)])
def test_a_variant_exports(variant: str, tmp_path: Path) -> None:
    network, x = built(variant), images(3)
    export_onnx(network, 48, tmp_path / "m.onnx")
    session = ort.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        wanted = network(x).numpy()
    got = np.asarray(session.run(None, {"image": x.numpy()})[0])
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize("variant", ["swap-1", "baseline", "image-only", "q-proj"])
def test_fused_kernels_leave_variants_to_torch(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    served = replace(dispatch.BACKENDS["triton"], reject=lambda call: None, decline=lambda call: None)
    monkeypatch.setitem(dispatch.BACKENDS, "triton", served)
    network, x = built(variant), images()
    with torch.inference_mode():
        assert torch.isfinite(network(x)).all()
        with dispatch.use("triton"), pytest.raises(UnavailableError, match=f"poster-nano@{variant} is another"):
            network(x)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("poster-nano@nothing", "no variant 'nothing' of poster-nano; known: landmark-only"),
        ("poster-nano@swap-3", "swap_first is 3, expected 0 to the depth, 2"),
        ("poster-nano@levels-5", "1 to 4 levels"),
        ("poster-nano@depth-0", "at least one depth"),
        ("cf-dan-nano@baseline", "are POSTER's; cf-dan-nano has none"),
    ],
)
def test_impossible_variants_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model_config(name)


@pytest.mark.parametrize("changes", [{"streams": "left"}, {"fusion": "none"}, {"streams": "image", "swap_first": 1}])
def test_impossible_switches_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        replace(nano(""), **changes)  # type: ignore[arg-type]


def test_the_published_network_is_the_default() -> None:
    config = PosterConfig("poster")
    assert config.as_published
    assert isinstance(build_network(nano("")), Poster)


def test_a_variant_has_no_variants() -> None:
    base = model_config("poster-nano@depth-3")
    assert isinstance(base, PosterConfig)
    for table in TABLES:
        with pytest.raises(UsageError, match="poster-nano@depth-3 is a variant itself; give the whole network"):
            table_rows(base, table)
