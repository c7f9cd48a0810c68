"""What torch.compile translates of a network, and what it must leave to the kernels."""

from __future__ import annotations

import pytest
import torch

from poster_edge.errors import UnavailableError
from poster_edge.kernels import dispatch
from poster_edge.models.build import build_network
from poster_edge.models.config import model_config
from poster_edge.models.translated import translatable, translate


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("poster-nano", {"ir_back", "face_landback"}),
        ("poster-nano@image-only", {"ir_back"}),
        ("poster-nano@landmark-only", {"face_landback"}),
        ("fer-vt-nano", {""}),
        ("cf-dan-nano", {""}),
    ],
)
def test_same_answers_and_the_pyramid_left_alone(name: str, parts: set[str]) -> None:
    torch.manual_seed(0)
    network = build_network(model_config(name, num_classes=3)).eval()
    names = list(network.state_dict())
    pictures = [torch.randn(n, 3, 48, 48) for n in (1, 3, 2)]
    with torch.inference_mode():
        expected = [network(x) for x in pictures]
        # Dynamo traces as for Inductor; what it found is run as it is.
        translate(network, backend="eager")
        with dispatch.recorded() as ran:
            found = [network(x) for x in pictures]
    assert {n for n, m in network.named_modules() if m._compiled_call_impl is not None} == parts
    assert list(network.state_dict()) == names
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)
    if "poster" in name:
        # Traced, it would not have been there to choose who computes it.
        assert ran


def test_two_translations_serve_every_batch() -> None:
    network = build_network(model_config("poster-nano", num_classes=3)).eval()
    translate(network, backend="eager")
    torch._dynamo.reset()
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    with torch.inference_mode():
        for batch in (1, 3, 2, 5, 1, 8):
            network(torch.zeros(batch, 3, 48, 48))
    # Of both backbones: one for the first size, one for any other.
    assert graphs["unique_graphs"] - before == 4


def test_what_cannot_be_translated_is_one_line() -> None:
    words = "torch.compile cannot translate the network here: .*no-such-backend"
    with pytest.raises(UnavailableError, match=words), translatable():
        torch.compile(torch.nn.Identity(), backend="no-such-backend")(torch.zeros(1))
