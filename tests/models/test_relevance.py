"""Relevance maps of POSTER: the rules by hand, the gradients by autograd, and what must hold for any network."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from poster_edge.errors import UnavailableError
from poster_edge.models import relevance
from poster_edge.models.build import build_network
from poster_edge.models.config import model_config
from poster_edge.models.network import Network
from poster_edge.models.poster_config import LandmarkConfig, LandmarkStage
from poster_edge.models.relevance import ask, attention_relevance, explain


def network(name: str, **changes: object) -> Network:
    torch.manual_seed(0)
    config = model_config(name)
    built = build_network(replace(config, **changes) if changes else config).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name_, value in built.named_parameters():
            value.add_(torch.randn_like(value) * (0.2 if name_.startswith("pyramid_fuse") else 0.05))
    return built


@pytest.fixture(scope="module")
def nano() -> Network:
    return network("poster-nano")


def images(count: int, size: int = 48) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_rules_on_two_tokens_by_hand() -> None:
    # Two heads on two tokens; negative products are cut off before the mean over heads.
    weights = torch.tensor([[[[0.5, 0.5], [0.25, 0.75]], [[1.0, 0.0], [0.5, 0.5]]]])
    gradient = torch.tensor([[[[2.0, -4.0], [4.0, 0.0]], [[2.0, 9.0], [-2.0, 1.0]]]])
    found = attention_relevance(weights, gradient)
    # Head 1: [[1, 0], [1, 0]]; head 2: [[2, 0], [0, .5]].
    assert found.tolist() == [[[1.5, 0.0], [0.5, 0.25]]]
    image, landmark = torch.eye(4)[None, :2], torch.eye(4)[None, 2:]
    # Own: I + Ḡ; asking: row sums 1.5 and 0.75 of Ḡ go to the landmark tokens in the same places.
    assert ask(image, landmark, found).tolist() == [[[2.5, 0.0, 1.5, 0.0], [0.5, 1.25, 0.0, 0.75]]]
    assert ask(image, None, found).tolist() == [[[2.5, 0.0, 0.0, 0.0], [0.5, 1.25, 0.0, 0.0]]]


def test_mixing_by_hand() -> None:
    r = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    between = torch.tensor([[[9.0, 0.5], [0.25, 9.0]]])
    # The diagonal of the relevance is not used: a token's own way is |diag W| = (1, 0.5).
    assert relevance._mixed(r, torch.tensor([[1.0], [0.5]]), between).tolist() == [[[1.0, 0.5], [0.25, 0.5]]]


@pytest.fixture(scope="module")
def tape(nano: Network) -> relevance._Tape:
    found = relevance._Tape(nano)
    with found.recording():
        logits = nano(images(2).requires_grad_())
    found.differentiate(logits[:, 3].sum())
    return found


def test_gradients_of_attention_are_autograds(nano: Network, tape: relevance._Tape) -> None:
    """The rest of the network is run again from one attention's spelled-out map."""
    block = nano.pyramid_fuse.blocks[0].block_m
    attention = block.attn_img
    kept: list[Tensor] = []

    def spelled(module: nn.Module, inputs: tuple[Tensor, Tensor], output: Tensor) -> Tensor:
        q, k, v = attention.heads_of(*inputs)
        weights = ((q * attention.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        kept.append(weights)
        # B x H x N x D/H -> B x N x D
        return attention.proj((weights @ v).transpose(1, 2).flatten(2))

    handle = attention.register_forward_hook(spelled)
    try:
        logits = nano(images(2).requires_grad_())
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), kept)
    wanted = attention_relevance(kept[0], gradient)
    with torch.no_grad():
        got = relevance._attention(tape, attention)
    assert torch.allclose(got, wanted, rtol=1e-3, atol=1e-9)
    assert wanted.max() > 0


@pytest.mark.parametrize("path", ["blocks.0.block_l.conv", "blocks.0.upsample_s", "downsample_s"])
def test_gradients_of_convolutions_are_autograds(nano: Network, tape: relevance._Tape, path: str) -> None:
    """Summed over heads, what every input token adds is gradient times its own part of the output."""
    module = nano.pyramid_fuse.get_submodule(path)
    (z,), _ = tape.passed[module]
    with torch.no_grad():
        own, between = relevance._convolution(tape, module, heads=1)
        for token in (0, 5):
            alone = torch.zeros_like(z)
            alone[:, token] = z[:, token]
            part = module(alone) - module(torch.zeros_like(z))
            wanted = (tape.gradients[module] * part).sum(dim=2).clamp_min(0)
            assert torch.allclose(between[:, :, token], wanted, rtol=1e-3, atol=1e-8)
    weight = module.weight if isinstance(module, nn.Conv1d) else module.weight.transpose(0, 1)
    assert torch.allclose(own[7, 0], weight[7, 7].abs().sum())


def test_no_gradient_no_relevance(nano: Network) -> None:
    """A head that weighs nothing has no gradients: nothing is relevant."""
    kept = nano.head.linear.weight.detach().clone()
    with torch.no_grad():
        nano.head.linear.weight.zero_()
    try:
        found = explain(nano, images(1))
    finally:
        with torch.no_grad():
            nano.head.linear.weight.copy_(kept)
    assert all(m.max() == 0 for m in found.maps.values())


def test_maps_follow_the_class_and_not_the_batch(nano: Network) -> None:
    x = images(3)
    happy, sad = (explain(nano, x, classes=torch.full((3,), k)) for k in (3, 5))
    alone = explain(nano, x[1:2], classes=torch.tensor([3]))
    with torch.no_grad():
        wanted = nano(x).numpy()
    assert np.allclose(happy.logits, wanted, atol=1e-5)
    for stream in ("image", "landmark"):
        assert happy.maps[stream].shape == (3, 3, 6, 6)
        assert happy.maps[stream].min() >= 0 < happy.maps[stream].max()
        assert np.allclose(alone.maps[stream][0], happy.maps[stream][1], rtol=1e-3, atol=1e-7)
        difference = np.abs(happy.maps[stream] - sad.maps[stream]).max()
        assert difference > 0.1 * happy.maps[stream].max()


def test_the_most_probable_class_is_the_default(nano: Network) -> None:
    found = explain(nano, images(4))
    assert found.explained.tolist() == found.logits.argmax(axis=1).tolist()
    assert not nano.training


def test_asking_alone_makes_landmarks_relevant() -> None:
    """Without mixing, one depth: the image stream is read out, landmark tokens only ask."""
    swapped = explain(network("poster-nano", depth=1, mix=False), images(1))
    # The landmark stream still passes through the pyramid's convolutions; of a single level it only asks.
    asks = explain(network("poster-nano", depth=1, mix=False, dims=(128,)), images(1))
    own = explain(network("poster-nano", depth=1, mix=False, dims=(128,), swap_first=0), images(1))
    assert swapped.maps["landmark"].max() > 0
    assert asks.maps["landmark"].max() > 0
    assert own.maps["landmark"].max() == 0


@pytest.mark.parametrize(
    ("variant", "streams"),
    [("image-only", ["image"]), ("landmark-only", ["landmark"]), ("baseline-pyramid", ["image", "landmark"])],
)
def test_variants_have_maps_of_the_streams_they_have(variant: str, streams: list[str]) -> None:
    found = explain(network(f"poster-nano@{variant}"), images(1))
    assert list(found.maps) == streams
    assert all(m.max() > 0 for m in found.maps.values())


def test_raw_tokens_are_put_back_by_hand() -> None:
    """Two channels of 2 x 2 values make four raw tokens of two values each, in flat order."""
    features = torch.tensor([[[[3.0, 1.0], [1.0, -1.0]], [[1.0, 1.0], [-1.0, -1.0]]]])
    backbone = nn.Identity()
    built = SimpleNamespace(ir_back=backbone)
    tape = relevance._Tape(built, {backbone: ((), features)}, {backbone: torch.ones_like(features)})  # type: ignore[arg-type]
    config = SimpleNamespace(raw_tokens=True, grid=2)
    values = torch.tensor([[[4.0, 8.0, 2.0, 6.0]]])
    found = relevance._on_map(tape, config, "image", values)  # type: ignore[arg-type]
    # Token 0: 4 as 3:1 on the first row; 1: 8 as 1:0 on the second; 2: 2 halved; 3: no positive value, so halved.
    assert found.tolist() == [[[[3.0 + 1.0, 1.0 + 1.0], [8.0 + 3.0, 3.0]]]]


def test_a_published_network_has_a_finer_map_of_the_image() -> None:
    stages = (LandmarkStage(24, 48, 1, 48), LandmarkStage(48, 96, 1, 96), LandmarkStage(48, 96, 1, 96))
    landmark = LandmarkConfig(stem=16, stages=stages, activation="relu")
    built = network("poster-nano", raw_tokens=True, input_size=192, subsample=2, landmark=landmark)
    found = explain(built, images(1, 192))
    assert {k: m.shape[2:] for k, m in found.maps.items()} == {"image": (12, 12), "landmark": (6, 6)}
    assert all(m.max() > 0 for m in found.maps.values())


@pytest.mark.parametrize(("name", "reason"), [("fer-vt-nano", "a whole map"), ("cf-dan-nano", "between channels")])
def test_other_networks_are_refused_by_name(name: str, reason: str) -> None:
    with pytest.raises(UnavailableError, match=f"{name} cannot be explained.*{reason}"):
        explain(build_network(model_config(name)).eval(), images(1))
