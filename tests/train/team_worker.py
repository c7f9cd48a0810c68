"""One of the processes of ``test_team.py``; writes what it saw to the file it is given."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from poster_edge.train.shared_norm import share_norms
from poster_edge.train.team import Team, joined


def network() -> nn.Sequential:
    """Both kinds of BatchNorm, one of them inside another module, and one that is held."""
    torch.manual_seed(3)
    held = nn.BatchNorm2d(4).eval()
    inner = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), held)
    net = nn.Sequential(inner, nn.Flatten(), nn.Linear(4 * 9, 3), nn.BatchNorm1d(3))
    return net.to(memory_format=torch.channels_last)


def batch() -> tuple[Tensor, Tensor]:
    """Images whose halves differ much, and what the network is to answer."""
    torch.manual_seed(4)
    x = torch.randn(8, 2, 5, 5)
    x[4:] = 3 * x[4:] + 2
    return x, torch.randn(8, 3)


def pass_through(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Two passes, so that statistics move twice; gradients of the second stay."""
    for _ in range(2):
        net.zero_grad()
        out = net(x)
        (out - y).square().mean().backward()
    return out.detach()


def work(team: Team) -> dict[str, object]:
    """Everything that a process sees."""
    x, y = batch()
    net = network()
    share_norms(net, "cpu")
    out = pass_through(net, team.part(x), team.part(y))
    state = {"w": torch.full((2, 3, 4, 5), float(team.rank)).to(memory_format=torch.channels_last)}
    team.copy_first(state)
    team.wait()
    return {
        "leads": team.leads,
        "out": team.gather(out),
        "gradients": {k: team.mean(p.grad) for k, p in net.named_parameters()},
        "state": net.state_dict(),
        "agreed": team.agree({"from": team.rank}),
        "mean": team.mean(torch.tensor(float(team.rank))),
        "copied": state["w"],
        "uneven": team.gather(torch.arange(team.rank + 1)),
    }


if __name__ == "__main__":
    with joined("cpu") as joined_team:
        torch.save(work(joined_team), Path(sys.argv[1]) / f"{joined_team.rank}.pt")
