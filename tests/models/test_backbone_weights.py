"""Published backbones in their own naming: loaded whole, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from poster_edge.errors import InputError, UsageError
from poster_edge.models.backbone_weights import load_image_weights, load_landmark_weights
from poster_edge.models.build import build_network
from poster_edge.models.config import model_config
from poster_edge.models.network import Network

#: Part of the published state dict -> what loads it.
LOADERS: dict[str, Callable[[Network, Path], None]] = {
    "ir_back.": load_image_weights,
    "face_landback.": load_landmark_weights,
}


@pytest.fixture(scope="module")
def network() -> Network:
    return build_network(model_config("poster-t"))


def stand_in(shared: Path, part: str) -> dict[str, Tensor]:
    """Entries with the published names and shapes, each filled with a number of its own."""
    rows = (r.split("\t") for r in (shared / "golden" / "poster_small.keys.tsv").read_text().splitlines())
    shapes = {name.removeprefix(part): (shape, dtype) for name, shape, dtype in rows if name.startswith(part)}
    return {
        name: torch.full([int(n) for n in shape.split("x") if n], i, dtype=getattr(torch, dtype))
        for i, (name, (shape, dtype)) in enumerate(shapes.items())
    }


def wrapped(state: dict[str, Tensor], part: str) -> dict:
    """As the files hold them: IR-50 with its last stage, MobileFaceNet with what its training script kept."""
    if part == "ir_back.":
        return {**state, "body.21.res_layer.0.weight": torch.zeros(256), "body.23.res_layer.4.bias": torch.zeros(512)}
    return {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3, "best_acc1": 0.1}


@pytest.mark.parametrize("part", LOADERS)
def test_every_entry_arrives(network: Network, shared: Path, tmp_path: Path, part: str) -> None:
    state = stand_in(shared, part)
    torch.save(wrapped(state, part), tmp_path / "w.pth")
    LOADERS[part](network, tmp_path / "w.pth")
    found = {k.removeprefix(part): v for k, v in network.state_dict().items() if k.startswith(part)}
    assert found.keys() == state.keys()
    assert all(torch.equal(v, state[k]) for k, v in found.items())


def test_counters_may_lack(network: Network, shared: Path, tmp_path: Path) -> None:
    state = {k: v for k, v in stand_in(shared, "ir_back.").items() if not k.endswith("num_batches_tracked")}
    torch.save({"model": state}, tmp_path / "w.pth")
    load_image_weights(network, tmp_path / "w.pth")
    assert int(network.state_dict()["ir_back.body.0.res_layer.0.num_batches_tracked"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.conv.weight": None}, "1 entries do not fit the model: missing conv1.conv.weight"),
        ({"conv9.weight": torch.zeros(1)}, "unexpected conv9.weight"),
        ({"conv1.bn.bias": torch.zeros(3)}, r"conv1.bn.bias is \(3,\), expected \(64,\)"),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_what_does_not_fit_is_named(
    network: Network, shared: Path, tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    state = {**stand_in(shared, "face_landback."), **change}
    torch.save({"state_dict": {k: v for k, v in state.items() if v is not None}}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        load_landmark_weights(network, tmp_path / "w.pth")


def test_other_files_and_networks_are_refused(network: Network, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        load_image_weights(network, tmp_path / "none.pth")
    (tmp_path / "torn.pth").write_bytes(b"torn")
    with pytest.raises(InputError, match="torn.pth: not a"):
        load_landmark_weights(network, tmp_path / "torn.pth")
    torch.save({"body.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="entries do not fit the model: missing input_layer.0.weight"):
        load_image_weights(network, tmp_path / "other.pth")
    with pytest.raises(UsageError, match="cf-dan-nano has no image stream of POSTER: it trains without --image-w"):
        load_image_weights(build_network(model_config("cf-dan-nano")), tmp_path / "other.pth")


def test_code_in_a_file_does_not_run(network: Network, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "sprung",)

    torch.save({"state_dict": Trap()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="refused"):
        load_landmark_weights(network, tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()
