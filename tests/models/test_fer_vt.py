"""FER-VT: its published and specified sizes, a grid attention that lives, every ablation, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from poster_edge.data.faces import load_faces
from poster_edge.errors import UsageError
from poster_edge.models.build import build_network
from poster_edge.models.config import CONFIGS
from poster_edge.models.fer_vt import FerVt
from poster_edge.models.fer_vt_config import FerVtConfig
from poster_edge.models.grid_attention import GridAttention

FULL, NANO = CONFIGS["fer-vt"], CONFIGS["fer-vt-nano"]


def size_of(config: FerVtConfig) -> tuple[int, float]:
    """Parameters, and multiply-adds in G."""
    with torch.device("meta"):
        model = FerVt(config).eval()
        x = torch.empty(1, 3, config.input_size, config.input_size)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(x)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2e9


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "millions", "gmac"),
    [
        ({}, 27.608, 3.651),
        ({"input_size": 222}, 27.608, 3.770),
        ({"input_size": 225}, 27.857, 4.271),
        ({"map_width": 32}, 26.42, None),
        ({"map_width": 64}, 26.81, None),
        ({"map_width": 256}, 29.19, None),
    ],
    ids=["216", "222", "225", "C1=32", "C1=64", "C1=256"],
)
def test_sizes_are_those_specified(changes: dict[str, Any], millions: float, gmac: float | None) -> None:
    count, operations = size_of(replace(FULL, **changes))
    assert count / 1e6 == pytest.approx(millions, abs=0.0005 if millions * 100 % 1 else 0.005)
    if gmac is not None:
        assert operations == pytest.approx(gmac, abs=0.0005)


def test_parts_are_those_specified() -> None:
    with torch.device("meta"):
        model = FerVt(FULL)
    assert parameters(model.trunk) == 21_284_672
    assert parameters(model.encoder) / 1e6 == pytest.approx(4.734, abs=0.0005)
    assert parameters(model.tokens.embed) / 1e6 == pytest.approx(0.816, abs=0.001)
    assert parameters(model.tokens.reduce) / 1e6 == pytest.approx(0.771, abs=0.0005)
    assert (FULL.tap_sides, FULL.tap_kernels, FULL.tap_strides) == ((27, 14, 7), (5, 3, 1), (4, 2, 1))
    assert FULL.reduced_sides == (7, 7, 7)


@pytest.mark.parametrize(
    ("changes", "fewer"),
    [
        ({"grid_attention": False}, 959),
        # Encoder, embedding, reduction, class token and positions, last norm; the head reads 512 instead of 128.
        ({"transformer": False}, 4_733_952 + 815_488 + 770_816 + 640 + 256 - 7 * (512 - 128)),
        ({"grid": (3, 2)}, 0),
        ({"grid": (4, 4)}, 0),
    ],
    ids=["without-gwa", "without-vta", "3x2", "4x4"],
)
def test_ablations_have_the_size_that_follows(changes: dict[str, Any], fewer: int) -> None:
    assert size_of(FULL)[0] - size_of(replace(FULL, **changes))[0] == fewer


@pytest.mark.parametrize("grid_attention", [True, False], ids=["gwa", "no-gwa"])
@pytest.mark.parametrize("transformer", [True, False], ids=["vta", "no-vta"])
@pytest.mark.parametrize("grid", [(3, 3), (3, 2), (4, 4)], ids=["3x3", "3x2", "4x4"])
def test_every_ablation_runs_and_learns(grid_attention: bool, transformer: bool, grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    config = replace(NANO, grid=grid, grid_attention=grid_attention, transformer=transformer, num_classes=5)
    model = build_network(config)
    x = torch.randn(4, 3, 48, 48)
    F.cross_entropy(model(x), torch.arange(4)).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead
    assert model(x).shape == (4, 5)
    assert model.features(x).shape == (4, 64 if transformer else 128)


def explicit_weights(attention: GridAttention, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """The cells' weights (B, 3, rows·columns), cell by cell as the paper's equations read."""
    features = attention.local_features(x)
    height, width = x.shape[2] // grid[0], x.shape[3] // grid[1]
    scores = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            cell = features[:, :, row * height : (row + 1) * height, column * width : (column + 1) * width]
            scores.append(torch.einsum("bcij,bckj->bcik", cell, cell) / width)
    return torch.stack(scores).softmax(dim=0).mean(dim=(3, 4)).permute(1, 2, 0)


@pytest.mark.parametrize("grid", [(3, 3), (3, 2), (4, 4)], ids=["3x3", "3x2", "4x4"])
def test_cells_are_weighed_as_the_paper_says(grid: tuple[int, int]) -> None:
    torch.manual_seed(1)
    attention = GridAttention(replace(NANO, grid=grid)).double().eval()
    x = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    expected = explicit_weights(attention, x, grid)
    weights = attention.cell_weights(x)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 3, dtype=torch.float64))
    weighed = attention.weigh(x)
    height, width = 48 // grid[0], 48 // grid[1]
    for cell in range(grid[0] * grid[1]):
        row, column = divmod(cell, grid[1])
        here = (slice(None), slice(None), slice(row * height, (row + 1) * height))
        here = (*here, slice(column * width, (column + 1) * width))
        torch.testing.assert_close(weighed[here], x[here] * expected[:, :, cell, None, None])


def test_attention_differs_between_images_and_learns() -> None:
    """A softmax over keys would give every image 1/72 and the score network no gradient."""
    torch.manual_seed(0)
    attention = GridAttention(FULL)
    x = torch.rand(3, 3, 216, 216) * torch.tensor([0.2, 1.0, 3.0])[:, None, None, None]
    x[:, :, :72] += 2
    weights = attention.cell_weights(x)
    assert weights.std(dim=0).max() > 1e-4
    assert weights.std(dim=2).min() > 1e-4
    weights[:, :, 0].sum().backward()
    gradients = [p.grad.abs().max().item() for p in attention.local_features.parameters() if p.grad is not None]
    assert len(gradients) == len(list(attention.local_features.parameters()))
    assert min(gradients) > 1e-7


def test_refining_starts_small() -> None:
    """Xavier-uniform with gain 0.1, so that the image the trunk sees begins near one half."""
    model = FerVt(NANO)
    bound = 0.1 * (6 / (2 * 27)) ** 0.5
    assert model.grid_attention.refine[0].weight.abs().max() <= bound
    assert model.grid_attention.transform_image[0].weight.abs().max() > bound


def test_the_trunk_is_named_as_imagenet_checkpoints_are() -> None:
    with torch.device("meta"):
        names = FerVt(FULL).trunk.state_dict()
    shapes = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "layer1.2.conv2.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.weight": (128,),
        "layer3.5.bn2.bias": (256,),
        "layer4.2.conv1.weight": (512, 512, 3, 3),
    }
    assert {n: tuple(names[n].shape) for n in shapes} == shapes
    assert not any(n.startswith(("fc.", "avgpool")) for n in names)
    # 36 convolutions, as many normalisations of 5 entries each.
    assert len(names) == 36 + 36 * 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": 224}, "224 px does not divide into 3x3 cells; .* 216"),
        ({"input_size": 225, "grid": (4, 4)}, "does not divide into 4x4"),
        ({"num_classes": 1}, "at least 2 classes"),
        ({"trunk": replace(FULL.trunk, units=(1, 1), widths=(8, 8), strides=(1, 2))}, "last 3 stages"),
    ],
    ids=["224", "4x4", "one-class", "short-trunk"],
)
def test_impossible_configurations_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(FULL, **changes)


def test_without_grid_attention_any_size_goes() -> None:
    assert replace(FULL, grid_attention=False, input_size=224).reduced_sides == (7, 7, 7)


def test_overfits_eight_real_faces(shared: Path) -> None:
    """Every part but the width of the paper's model, on 48 px."""
    faces = load_faces(shared / "data" / "fer2013_train_valid.npz")
    rows = [int(np.flatnonzero(faces.labels == k % 7)[k // 7]) for k in range(8)]
    pixels = torch.from_numpy(faces.squares(np.array(rows), 48, "gray")).float() / 255
    x, labels = ((pixels - 0.51) / 0.31).expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(faces.labels[rows])
    torch.manual_seed(0)
    model = build_network(replace(NANO, dropout=0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.0
    assert losses[-1] < 0.1
