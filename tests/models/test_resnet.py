"""The residual trunks: torchvision's entries, the published counts, the maps that the heads expect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from poster_edge.errors import InputError, UsageError
from poster_edge.export.fold import fold_batchnorm, remaining_batchnorms
from poster_edge.models.build import build_network
from poster_edge.models.config import CONFIGS
from poster_edge.models.resnet import ResNet
from poster_edge.models.resnet_config import RESNET18, RESNET34, ResNetConfig
from poster_edge.models.trunk_weights import load_trunk

NARROW = ResNetConfig(units=(1, 2), widths=(8, 12), strides=(1, 2), stem_kernel=3, stem_stride=1, stem_pool=False)


@pytest.mark.parametrize(
    ("config", "parameters", "entries"), [(RESNET18, 11_176_512, 120), (RESNET34, 21_284_672, 216)], ids=["18", "34"]
)
def test_parameters_without_classifier(config: ResNetConfig, parameters: int, entries: int) -> None:
    """11.69 and 21.80 M with the classifier of 1000 classes, whose 513,000 are not here."""
    with torch.device("meta"):
        trunk = ResNet(config)
    assert sum(p.numel() for p in trunk.parameters()) == parameters
    assert len(trunk.state_dict()) == entries


def test_entries_are_named_as_in_torchvision() -> None:
    with torch.device("meta"):
        names = set(ResNet(RESNET18).state_dict())
    for name in ("conv1.weight", "bn1.running_var", "layer1.0.conv2.weight", "layer4.0.downsample.1.bias"):
        assert name in names
    assert not any(n.startswith(("fc", "layer1.0.downsample")) for n in names)


@pytest.mark.parametrize(
    ("config", "size", "gmac"), [(RESNET18, 224, 1.814), (RESNET34, 216, 3.545)], ids=["18-at-224", "34-at-216"]
)
def test_maps_and_multiply_adds(config: ResNetConfig, size: int, gmac: float) -> None:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        maps = ResNet(config).eval().stages(torch.empty(1, 3, size, size))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=5e-4)
    assert tuple(m.shape[-1] for m in maps) == config.sides(size)
    assert [m.shape[1] for m in maps] == list(config.widths)


@pytest.mark.parametrize("config", [NARROW, ResNetConfig(widths=(8, 8, 16, 16))], ids=["narrow", "pooled"])
def test_batchnorm_folds_away_exactly(config: ResNetConfig) -> None:
    torch.manual_seed(0)
    trunk = ResNet(config).double()
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.5)
    trunk.eval()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    folded = fold_batchnorm(trunk, x)
    assert not remaining_batchnorms(folded)
    with torch.no_grad():
        assert torch.allclose(folded(x), trunk(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("changes", [{"units": (2, 2)}, {"stem_kernel": 4}], ids=["lengths", "even-kernel"])
def test_impossible_trunks_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ResNetConfig(**changes)  # type: ignore[arg-type]


def published(trunk: ResNet) -> dict[str, torch.Tensor]:
    """What torchvision's file of this trunk holds: a classifier too, and no counters."""
    state = {k: v.clone() for k, v in trunk.state_dict().items() if not k.endswith("num_batches_tracked")}
    return {**state, "fc.weight": torch.zeros(1000, 16), "fc.bias": torch.zeros(1000)}


class Standing(nn.Module):
    """As little of a network as has a trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = ResNet(NARROW)


def test_trunk_starts_from_a_published_file(tmp_path: Path) -> None:
    source, network = ResNet(NARROW), Standing()
    torch.save(published(source), tmp_path / "resnet.pth")
    load_trunk(network, tmp_path / "resnet.pth")  # type: ignore[arg-type]
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in network.trunk.state_dict().items())


def test_a_file_of_another_trunk_is_refused(tmp_path: Path) -> None:
    other = ResNet(ResNetConfig(units=(1, 1), widths=(8, 16), strides=(1, 2), stem_kernel=3))
    torch.save(published(other), tmp_path / "resnet.pth")
    with pytest.raises(InputError, match=r"layer2\.1\.conv1\.weight"):
        load_trunk(Standing(), tmp_path / "resnet.pth")  # type: ignore[arg-type]


def test_a_network_without_trunk_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        poster = build_network(CONFIGS["poster-nano"])
    with pytest.raises(UsageError, match="poster-nano has no residual trunk"):
        load_trunk(poster, tmp_path / "resnet.pth")
