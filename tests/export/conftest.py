"""poster-nano, exported once for all tests of the graph."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import nn

from poster_edge.export.onnx import export_onnx
from poster_edge.models.build import build_network
from poster_edge.models.config import CONFIGS
from poster_edge.models.poster import Poster


def _randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.5, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def randomise() -> Callable[[nn.Module], nn.Module]:
    """Gives every normalisation its own statistics and scales, so that nothing folds by luck."""
    return _randomise


@pytest.fixture(scope="session")
def exported_nano(tmp_path_factory: pytest.TempPathFactory) -> tuple[Poster, Path, Path]:
    """poster-nano, its graph, and its graph with one node for each depth; exported by the first process to ask."""
    torch.manual_seed(0)
    nano = _randomise(build_network(CONFIGS["poster-nano"]))
    assert isinstance(nano, Poster)
    base = tmp_path_factory.getbasetemp()
    # pytest-xdist gives each process a folder within the run's own.
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    plain, fused = folder / "nano.onnx", folder / "nano.fused-op.onnx"
    with FileLock(folder / "nano.lock"):
        if not fused.is_file():
            export_onnx(nano, 48, plain, fused_to=(fused, nano.config.heads))
    return nano, plain, fused
