"""CF-DAN: published size and cost, each switch does what it says, and it learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from poster_edge.data.faces import load_faces
from poster_edge.errors import UsageError
from poster_edge.kernels.attention import exportable
from poster_edge.models.cf_dan import CfDan, ChannelAttention, Interaction, SpatialAttention
from poster_edge.models.cf_dan_config import CF_DAN_CONFIGS, CfDanConfig
from poster_edge.models.pcp import pcp_reference

NANO, _, FULL, PROJECTED = CF_DAN_CONFIGS
SWITCHES: dict[str, dict[str, object]] = {
    "whole": {},
    "no-dam": {"dam": False},
    "no-ilm": {"ilm": False},
    "no-dam-no-ilm": {"dam": False, "ilm": False},
    "no-cross": {"cross": False},
    "no-distil": {"distil": False},
    "out-proj": {"out_proj": True},
    "relu": {"activation": "relu"},
    "gelu": {"activation": "gelu"},
    "mish": {"activation": "mish"},
}


def attention_budget(config: CfDanConfig) -> tuple[int, int]:
    """Parameters and multiply-adds of everything between trunk and head, attention products included."""
    with torch.device("meta"), torch.no_grad():
        model = CfDan(config).eval()
        with FlopCounterMode(display=False) as counter:
            model.attend(torch.empty(1, config.grid**2, config.dim))
    parts = [p for n, p in model.named_parameters() if not n.startswith(("trunk.", "head."))]
    return sum(p.numel() for p in parts), counter.get_total_flops() // 2


def whole_budget(config: CfDanConfig) -> tuple[int, int]:
    with torch.device("meta"), torch.no_grad():
        model = CfDan(config).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, config.input_size, config.input_size))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("changes", "parameters", "multiply_adds"),
    [
        ({}, 4_224_512, 138_373_120),
        ({"distil": False}, 4_200_448, 211_486_720),
        ({"out_proj": True}, 5_273_088, 189_753_344),
    ],
    ids=["default", "no-distil", "out-proj"],
)
def test_attention_and_interaction_cost(changes: dict[str, object], parameters: int, multiply_adds: int) -> None:
    """4.22 M and 0.14 G with distillation, 4.2 M and 0.21 G without it (the paper); no head, no trunk."""
    assert attention_budget(replace(FULL, **changes)) == (parameters, multiply_adds)


@pytest.mark.parametrize(
    ("config", "millions", "billions"), [(FULL, 15.41, 1.95), (PROJECTED, 16.45, 2.00)], ids=["default", "out-proj"]
)
def test_whole_cost(config: CfDanConfig, millions: float, billions: float) -> None:
    """16.4 M and 2.0 G are published; the paper's attention row and its total do not fit together."""
    parameters, multiply_adds = whole_budget(config)
    assert parameters / 1e6 == pytest.approx(millions, abs=0.006)
    assert multiply_adds / 1e9 == pytest.approx(billions, abs=0.006)


def tiny(**changes: object) -> CfDan:
    torch.manual_seed(0)
    trunk = replace(NANO.trunk, widths=(8, 16, 32))
    return CfDan(replace(NANO, trunk=trunk, channel_groups=2, **changes))  # type: ignore[arg-type]


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_runs_and_trains(name: str, image: Tensor) -> None:
    model = tiny(**SWITCHES[name])
    logits = model(image)
    assert logits.shape == (2, 7)
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


def test_switches_change_the_function(image: Tensor) -> None:
    found = {}
    for name, changes in SWITCHES.items():
        model = tiny(**changes).eval()
        # Same weights wherever the names are the same, so that the switch alone makes the difference.
        shared = {k: v for k, v in tiny().state_dict().items() if k in model.state_dict()}
        model.load_state_dict(shared, strict=False)
        with torch.no_grad():
            found[name] = model(image)
    names = list(found)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not torch.allclose(found[a], found[b], rtol=1e-4, atol=1e-7), f"{a} is {b}"


def test_keys_come_from_the_other_stream(image: Tensor) -> None:
    """In the second layer, with ``cross``, a change of the other stream changes attention, but not as a value."""
    model = tiny()
    layer = model.layers[1]
    a, b = (torch.randn(1, 36, 32, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    with torch.no_grad():
        spatial, channel = layer(a, b)
        assert torch.equal(spatial, layer.spatial(a, b))
        assert torch.equal(channel, layer.channel(b, a))
        assert not torch.allclose(spatial, layer.spatial(a, a))
        layer.spatial.value.weight.zero_()
        assert torch.equal(layer.spatial(a, b), a), "values and residual are the stream's own"


def test_spatial_attention_by_hand() -> None:
    """Row by row with plain loops: 6 tokens of a row attend to the 3 distilled ones of the same row."""
    module = tiny().layers[0].spatial.double()
    assert isinstance(module, SpatialAttention)
    x, other = torch.randn(2, 1, 36, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        out = module(x, other)
        normed, normed_other = module.norm(x)[0], module.norm(other)[0]
        for row in range(6):
            k, v = (
                linear(module.distil(tokens.T.reshape(1, 32, 6, 6))[0, :, row].T)
                for linear, tokens in ((module.key, normed_other), (module.value, normed))
            )
            assert k.shape == (3, 32)
            q = module.query(normed[6 * row : 6 * row + 6])
            expected = ((q @ k.T) / 32**0.5).softmax(dim=1) @ v + x[0, 6 * row : 6 * row + 6]
            assert torch.allclose(out[0, 6 * row : 6 * row + 6], expected, rtol=0, atol=1e-12)


def test_channel_attention_by_hand() -> None:
    """Group by group: 16 channels attend to the 8 distilled ones of the same group."""
    module = tiny().layers[0].channel.double()
    assert isinstance(module, ChannelAttention)
    x, other = torch.randn(2, 1, 36, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        out = module(x, other)
        q, v = module.query(module.norm(x))[0], module.value(module.norm(x))[0]
        k = module.key(module.norm(other))[0]
        for start in (0, 16):
            part = slice(start, start + 16)
            few_k, few_v = (module.distil(t[:, part].T.reshape(1, 16, 6, 6)).reshape(8, 36) for t in (k, v))
            weights = (q[:, part].T @ few_k.T / 36**0.5).softmax(dim=1)
            expected = (weights @ few_v).T + x[0, :, part]
            assert torch.allclose(out[0, :, part], expected, rtol=0, atol=1e-12)


def test_interaction_by_hand() -> None:
    module = Interaction(replace(NANO, trunk=replace(NANO.trunk, widths=(8, 16, 32)), channel_groups=2)).double()
    a, b = torch.randn(2, 3, 36, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        c_a, c_b = (pcp_reference(gate(s.mean(1))) for gate, s in ((module.gate_a, a), (module.gate_b, b)))
        expected = pcp_reference(module.pass_a(c_a))[:, None] * c_b[:, None] * b
        expected += pcp_reference(module.pass_b(c_b))[:, None] * c_a[:, None] * a
        assert torch.allclose(module(a, b), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("changes", [{}, {"distil": False}], ids=["distil", "no-distil"])
def test_spelled_out_attention_is_the_same(changes: dict[str, object], image: Tensor) -> None:
    model = tiny(**changes).eval()
    with torch.no_grad():
        fused = model(image)
        with exportable():
            spelled = model(image)
    assert torch.allclose(fused, spelled, rtol=0, atol=1e-6)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small batches are slower on two threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_overfits_eight_real_faces(shared: Path) -> None:
    faces = load_faces(shared / "data" / "fer2013_train_valid.npz")
    # One face of each class, and a second happy one.
    rows = np.array([*(np.flatnonzero(faces.labels == c)[0] for c in range(7)), np.flatnonzero(faces.labels == 3)[1]])
    pixels = torch.from_numpy(faces.squares(rows, NANO.input_size, "gray")).float() / 255
    images, labels = ((pixels - 0.51) / 0.31).expand(-1, 3, -1, -1), torch.from_numpy(faces.labels[rows])
    torch.manual_seed(0)
    model = CfDan(NANO)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    losses, touched = [], set()
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        torch.autograd.backward(loss)
        touched |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.7
    assert losses[-1] < 0.05
    assert touched == {n for n, _ in model.named_parameters()}
    model.eval()
    settle_statistics(model, images)
    with torch.no_grad():
        assert torch.equal(model(images).argmax(dim=1), labels)


def settle_statistics(model: nn.Module, images: Tensor) -> None:
    """Let BatchNorm's running averages be those of these images, as they would be after many more steps."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        model(images)
    for norm in norms:
        norm.eval()


@pytest.mark.parametrize(
    "changes",
    [{"num_classes": 1}, {"activation": "swish"}, {"layers": 0}, {"channel_groups": 7}, {"input_size": 16}],
    ids=["one-class", "activation", "no-layers", "groups", "too-small"],
)
def test_impossible_configurations_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        CfDanConfig("broken", **changes)  # type: ignore[arg-type]
