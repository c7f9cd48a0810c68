"""Steps as CUDA graphs do what steps one kernel at a time do; needs a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from poster_edge.models.build import build_network
from poster_edge.models.config import model_config
from poster_edge.train.loop import Device, Loop
from poster_edge.train.recipe import Recipe
from poster_edge.train.step_graph import StepGraph

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU: its graphs")


def trained(recipe: Recipe, *, graphs: bool) -> tuple[dict[str, Tensor], list[float]]:
    torch.backends.cudnn.deterministic = True
    torch.manual_seed(0)
    device = Device("cuda:0", graphs=graphs)
    net = device.place(build_network(model_config("cf-dan-nano", num_classes=3))).train()
    loop = Loop(net, recipe, device, method="forward", side=48)
    generator = torch.Generator(device="cuda").manual_seed(1)
    losses = []
    for step in range(StepGraph.WARM_UP + 4):
        x = torch.randn(8, 3, 48, 48, device="cuda", generator=generator)
        y = torch.randn(8, 3, device="cuda", generator=generator)
        losses.append(loop.step(lambda x, y: (loop.call(x) - y).square().mean(), (x, y), step / 10))
    return net.state_dict(), torch.stack(losses).tolist()


@pytest.mark.parametrize(
    "changes",
    [{}, {"sam_rho": 0.05}, {"sam_rho": 0.05, "sam_hold_norm": True}, {"accumulate": 2, "clip": 0.0}],
    ids=["plain", "sam", "sam held", "parts"],
)
def test_graphs_take_the_same_steps(changes: dict) -> None:
    recipe = Recipe(batch=8, warmup=0, **changes)
    (plain, losses), (graphed, others) = trained(recipe, graphs=False), trained(recipe, graphs=True)
    assert others == pytest.approx(losses, rel=1e-3)
    for name, value in plain.items():
        torch.testing.assert_close(graphed[name], value, rtol=1e-2, atol=3e-3, msg=name)
