"""Weights in FP16: half the file, the same network within the rounding, and nothing lost the second time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from poster_edge.errors import InputError
from poster_edge.models.checkpoint import load_model, read_checkpoint, save_checkpoint
from poster_edge.models.half import as_small_as_exact, to_half
from poster_edge.runtime.bundle import WEIGHTS_FILE, load_bundle

PACKAGED = load_bundle("poster-nano").folder / WEIGHTS_FILE


def test_a_halved_checkpoint_is_half_as_large_and_loads_as_float32(tmp_path: Path) -> None:
    state, info = read_checkpoint(PACKAGED)
    halves, change = to_half(state)
    assert 0 < change < 2**-11
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, halves, info)
    assert path.stat().st_size < 0.52 * PACKAGED.stat().st_size
    model, again = load_model(path)
    assert again == info
    assert {v.dtype for v in model.state_dict().values()} == {torch.float32, torch.int64}
    x = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = load_model(PACKAGED)[0](x)
        assert (model(x) - expected).norm() < 2e-3 * expected.norm()


def test_what_fp16_holds_is_packed_in_it_and_nothing_else() -> None:
    state, _ = read_checkpoint(PACKAGED)
    assert as_small_as_exact(state) is state
    halves, _ = to_half(state)
    wide = {n: t.float() if t.is_floating_point() else t for n, t in halves.items()}
    packed = as_small_as_exact(wide)
    assert all(packed[n].dtype == halves[n].dtype and torch.equal(packed[n], halves[n]) for n in halves)


def test_values_beyond_its_range_are_named() -> None:
    with pytest.raises(InputError, match=r"bn\.running_var: 1e\+06 is beyond FP16's range"):
        to_half({"w": torch.ones(2), "bn.running_var": torch.tensor([1.0, 1e6])})
    assert as_small_as_exact({"x": torch.tensor([1e6])})["x"].dtype == torch.float32
