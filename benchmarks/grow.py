"""Makes poster-mini's starting weights from poster-micro's: one more unit, which begins by changing nothing.

    python benchmarks/grow.py poster-micro.safetensors poster-mini.safetensors

poster-mini is poster-micro behind one more residual unit.  That unit's last BatchNorm begins with a scale of 0, so that
the unit gives back its input and the larger network answers as the smaller one does, which is checked.
Source: Chen et al., "Net2Net: Accelerating Learning via Knowledge Transfer" (2016), section 2 (function-preserving).
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import torch

from poster_edge.models.build import build_network
from poster_edge.models.checkpoint import load_model, save_checkpoint
from poster_edge.models.config import model_config

_UNIT = re.compile(r"^ir_back\.body\.(\d+)\.")
_SILENT = "ir_back.body.0.res_layer.4.weight"


def main(source: Path, target: Path) -> None:
    """Read ``source``, write ``target``."""
    small, info = load_model(source)
    torch.manual_seed(0)
    large = build_network(model_config("poster-mini", num_classes=len(info.classes)))
    shifted = {_UNIT.sub(lambda m: f"ir_back.body.{int(m[1]) + 1}.", k): v for k, v in small.state_dict().items()}
    own = large.state_dict()
    if any(k not in own or own[k].shape != v.shape for k, v in shifted.items()):
        sys.exit(f"{source} is {info.model}: expected poster-micro")
    large.load_state_dict({**own, **shifted, _SILENT: torch.zeros_like(own[_SILENT])})
    x = torch.randn(8, 3, large.config.input_size, large.config.input_size)
    with torch.inference_mode():
        apart = float((large.eval()(x) - small.eval()(x)).abs().max())
    if apart > 1e-6:
        sys.exit(f"the two networks answer differently, by {apart:.1e}")
    note = f"grown from {source.name}, which was {info.source}"
    save_checkpoint(target, large.state_dict(), replace(info, model="poster-mini", source=note))
    print(f"{target}: {len(own) - len(shifted)} new entries, the same answers")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
