"""The state of a run comes back equal to the bit, or the file is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from poster_edge.errors import InputError
from poster_edge.models.checkpoint import ModelInfo, save_checkpoint
from poster_edge.train.state import load_state, restore_optimizer, save_state


def test_any_nest_comes_back(tmp_path: Path) -> None:
    state = {
        "numbers": [1, 0.1 + 0.2, math.inf, True, None, -3e-310],
        "by_number": {0: {"step": torch.tensor(3.0), "betas": (0.9, 0.999)}, 7: {}},
        "text": "ü",
        "$tensor": {"nested": [torch.arange(3), torch.ones(2, 3, dtype=torch.bfloat16)]},
        "empty": ((), [], {}),
    }
    save_state(tmp_path / "s.safetensors", state)
    found = load_state(tmp_path / "s.safetensors")
    assert found["numbers"] == state["numbers"]
    assert [type(v) for v in found["numbers"]] == [type(v) for v in state["numbers"]]
    assert found["by_number"][0]["betas"] == (0.9, 0.999)
    assert list(found["by_number"]) == [0, 7]
    assert found["empty"] == ((), [], {})
    assert float(found["by_number"][0]["step"]) == 3
    for one, two in zip(found["$tensor"]["nested"], state["$tensor"]["nested"], strict=True):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_goes_on_as_if_nothing_had_been(tmp_path: Path, optimizer: type) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

    def step(net: nn.Module, opt: torch.optim.Optimizer) -> None:
        opt.zero_grad()
        net(torch.ones(2, 3, 5, 5)).square().mean().backward()
        opt.step()

    whole, torn = network(), network()
    settings = {"lr": 0.01, **({"momentum": 0.9} if optimizer is torch.optim.SGD else {})}
    first, second = optimizer(whole.parameters(), **settings), optimizer(torn.parameters(), **settings)
    for _ in range(2):
        step(whole, first)
        step(torn, second)
    save_state(tmp_path / "s.safetensors", {"model": torn.state_dict(), "optimizer": second.state_dict()})
    again = network()
    third = optimizer(again.parameters(), **settings)
    found = load_state(tmp_path / "s.safetensors")
    again.load_state_dict(found["model"])
    restore_optimizer(third, found["optimizer"])
    for entries in third.state.values():
        assert all(v.is_contiguous(memory_format=torch.channels_last) for v in entries.values() if v.ndim == 4)
    step(whole, first)
    step(again, third)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_state(tmp_path / "none.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="torn.safetensors: not readable"):
        load_state(tmp_path / "torn.safetensors")
    from poster_edge.config import Preprocess

    info = ModelInfo("poster-nano", ("happy", "sad"), Preprocess(), "custom")
    save_checkpoint(tmp_path / "c.safetensors", {"a": torch.zeros(1)}, info)
    with pytest.raises(InputError, match="not the state of a training run"):
        load_state(tmp_path / "c.safetensors")


def test_a_killed_writer_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.safetensors"
    save_state(path, {"epoch": 1})

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("poster_edge.train.state.save_file", die)
    with pytest.raises(KeyboardInterrupt):
        save_state(path, {"epoch": 2})
    assert load_state(path) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
