"""Published checkpoints: recognised, loaded strictly, never executed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from poster_edge.errors import InputError, UsageError
from poster_edge.labels import label_set
from poster_edge.models.build import build_network
from poster_edge.models.checkpoint import load_model, read_checkpoint, read_info, save_checkpoint
from poster_edge.models.config import CONFIGS
from poster_edge.models.official import load_official, read_official, recognise
from poster_edge.train.state import save_state


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_network(CONFIGS["poster-t"]).state_dict()


def write(path: Path, state: dict[str, Tensor], *, prefix: str = "module.", wrap: bool = True) -> Path:
    entries = {f"{prefix}{k}": v for k, v in state.items()}
    torch.save({"iter": 3, "model_state_dict": entries, "optimizer_state_dict": {}} if wrap else entries, path)
    return path


@pytest.mark.parametrize(("prefix", "wrap"), [("module.", True), ("", True), ("", False)], ids=["ddp", "plain", "bare"])
def test_layouts_found_in_practice(tmp_path: Path, state: dict[str, Tensor], prefix: str, wrap: bool) -> None:
    model, info = load_official(write(tmp_path / "c.pth", state, prefix=prefix, wrap=wrap), label_set("rafdb"))
    assert info.model == "poster-t"
    assert info.classes[0] == "surprise"
    assert info.preprocess.colour == "bgr"
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_affectnet_variant_and_its_conventions(tmp_path: Path, state: dict[str, Tensor]) -> None:
    plain = {k: v for k, v in state.items() if ".conv." not in k or not k.startswith("pyramid_fuse.blocks")}
    _, info = load_official(write(tmp_path / "c.pth", plain), label_set("affectnet7"))
    assert info.model == "poster-t-affectnet"
    assert info.classes[0] == "neutral"
    assert info.preprocess.colour == "rgb"


def test_missing_and_misshapen_entries_are_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    broken = dict(state)
    del broken["se_block.linear1.weight"]
    broken["ir_layer.bias"] = torch.zeros(3)
    with pytest.raises(InputError, match=r"missing se_block\.linear1\.weight; ir_layer\.bias is \(3,\), expected"):
        load_official(write(tmp_path / "c.pth", broken), label_set("rafdb"))


def test_class_count_must_fit_the_data_set(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(UsageError, match="7 classes but --dataset affectnet8 has 8"):
        load_official(write(tmp_path / "c.pth", state), label_set("affectnet8"))


def test_depth_that_was_never_published(state: dict[str, Tensor]) -> None:
    shallow = {k: v for k, v in state.items() if not k.startswith("pyramid_fuse.blocks.3")}
    with pytest.raises(InputError, match="depth 3"):
        recognise(shallow, "c.pth")


class Bomb:
    """Creates a file when unpickled by a careless reader."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps({"model_state_dict": Bomb(target)}, protocol=2))
    with pytest.raises(InputError, match="refused"):
        read_official(tmp_path / "bomb.pth")
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"], ids=["empty", "text", "torn-zip"])
def test_files_that_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match="c.pth"):
        read_official(path)


def test_safetensors_round_trip(tmp_path: Path, state: dict[str, Tensor]) -> None:
    model, info = load_official(write(tmp_path / "c.pth", state), label_set("rafdb"))
    save_checkpoint(tmp_path / "c.safetensors", model.state_dict(), info)
    again, read = load_model(tmp_path / "c.safetensors")
    assert read == info
    assert "c.pth sha256:" in read.source
    assert all(torch.equal(v, state[k]) for k, v in again.state_dict().items())


def test_what_train_wrote_is_not_taken_for_a_published_file(tmp_path: Path, state: dict[str, Tensor]) -> None:
    model, info = load_official(write(tmp_path / "c.pth", state), label_set("rafdb"))
    save_checkpoint(tmp_path / "best.safetensors", model.state_dict(), info)
    with pytest.raises(InputError, match=r"best\.safetensors: made by poster-edge.*train --init"):
        load_official(tmp_path / "best.safetensors", label_set("affectnet7"))
    save_state(tmp_path / "last.safetensors", {"model": {"a": torch.zeros(1)}})
    with pytest.raises(InputError, match=r"the state of a training run; its weights are in best\.safetensors"):
        read_info(tmp_path / "last.safetensors")
    with pytest.raises(InputError, match="made by poster-edge"):
        read_official(tmp_path / "last.safetensors")


def test_foreign_safetensors_say_what_to_do(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(InputError, match="poster-edge convert"):
        read_checkpoint(tmp_path / "foreign.safetensors")
