"""POSTER against outputs of its authors' own code, recorded in float64 on rebuildable weights."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from poster_edge.models.config import model_config
from poster_edge.models.official import recognise
from poster_edge.models.poster import Poster

VARIANTS = {
    "small": "poster-t",
    "base": "poster-s",
    "large": "poster",
    "affect_small": "poster-t-affectnet",
    "affect_large": "poster-affectnet",
}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.fixture(scope="module")
def recorded(shared: Path) -> dict[str, NDArray[np.float64]]:
    with np.load(shared / "golden" / "poster_official.npz") as arrays:
        return {k: arrays[k] for k in arrays.files}


@pytest.fixture(scope="module")
def official(shared: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("official_weights", shared / "golden" / "official_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=list(VARIANTS))
def weights(request: pytest.FixtureRequest, official: ModuleType) -> tuple[str, dict[str, Tensor]]:
    state = official.state_dict(request.param, 7)
    return request.param, {k: torch.from_numpy(np.asarray(v)) for k, v in state.items()}


def build(state: dict[str, Tensor], official: ModuleType, classes: int) -> Poster:
    state = dict(state)
    for name in ("head.linear.weight", "head.linear.bias"):
        state[name] = torch.from_numpy(official.entry(name, (classes, *state[name].shape[1:])))
    model = Poster(recognise(state, "golden"))
    model.load_state_dict(state, strict=True)
    return model.eval()


@torch.no_grad()
def taps(model: Poster, x: Tensor) -> dict[str, NDArray[np.float64]]:
    small = model.subsample(x)
    image, landmark = model.image_tokens(small), model.landmark_tokens(small)
    depth1 = model.pyramid_fuse.blocks[0](model.pyramid_fuse.levels(image, landmark))
    found = {
        "logits": model(x),
        "feature": model.features(x),
        "image_tokens": image,
        "landmark_tokens": landmark,
        **dict(zip(("depth1_large", "depth1_medium", "depth1_small"), depth1, strict=True)),
    }
    return {k: v.double().numpy() for k, v in found.items()}


@pytest.mark.parametrize("classes", [7, 8])
def test_matches_the_authors(
    weights: tuple[str, dict[str, Tensor]],
    official: ModuleType,
    recorded: dict[str, NDArray[np.float64]],
    classes: int,
) -> None:
    variant, state = weights
    model = build(state, official, classes)
    assert model.config == model_config(VARIANTS[variant], num_classes=classes)
    x = torch.from_numpy(official.images(2))
    wanted = {k.rsplit("/", 1)[1]: v for k, v in recorded.items() if k.startswith(f"{variant}/{classes}/")}
    assert {"logits", "feature"} <= set(wanted)
    single = taps(model, x)["logits"]
    double = taps(model.double(), x.double())
    scale = np.abs(wanted["logits"]).max()
    assert np.abs(single - wanted["logits"]).max() / scale < TOLERANCE[torch.float32]
    for name, value in wanted.items():
        error = np.abs(double[name] - value).max() / np.abs(value).max()
        assert error < TOLERANCE[torch.float64], f"{name}: {error}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dict_is_the_published_one(variant: str, official: ModuleType) -> None:
    with torch.device("meta"):
        own = {k: tuple(v.shape) for k, v in Poster(model_config(VARIANTS[variant])).state_dict().items()}
    assert own == dict(official.keys(variant))
