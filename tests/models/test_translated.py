"""What torch.compile translates of a network, and what it must leave to the kernels."""

from __future__ import annotations

import pytest
import torch

from poster_edge.kernels import dispatch
from poster_edge.models.build import build_network
from poster_edge.models.config import model_config
from poster_edge.models.translated import translate


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
