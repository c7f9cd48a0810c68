"""The piecewise cubic polynomial activation (PCP) of CF-DAN, in a form that needs no branches.

Source: Zhang et al., "CF-DAN" (2024), its C² activation with s = 1.85, x = 0.19, P(-1) = -0.24:

    x        < -1    [-1, 0)   [0, .19)   [.19, 1)   >= 1
    P(x)     -0.24   a0 x³ + b x² + c x   a1 x³ + b x² + c x   see ``TABLE``   1

It is twice continuously differentiable inside (-1, 1).  At -1 and 1 it is C¹ only: its second
derivative jumps by 0.552 and by 6.024 there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: The knot between the two inner pieces.
KNOT = 0.19
#: Coefficients of x³, x², x and 1 on [-1, 0), [0, KNOT) and [KNOT, 1); exact fractions where decimals are not.
TABLE = (
    (-0.036, 0.168, 0.444, 0.0),
    (2993 / 950, 0.168, 0.444, 0.0),
    (-8293 / 4050, 10567 / 3375, -803 / 6750, 361 / 10125),
)
#: P(KNOT), exactly.
AT_KNOT = 5601713 / 50000000


def pcp(x: Tensor) -> Tensor:
    """P(x) for any shape, with 15 operators and no comparison.

    P is a sum of two parts, each of which sees its own range only and stays where it is while the
    other moves.  ``low`` ends at the knot; the two pieces below it share b and c, so a leaky ReLU
    tells them apart.  The piece above is developed from its upper end (``left`` is the way to 1),
    where it has no slope: in half precision that keeps P(1) at 1 and the error at 1.1e-3, where a
    sum of truncated cubes (12 operators) cancels to 5e-3.  Beyond -1 and 1 the gradient is exactly 0.
    """
    (below, b, c, _), (above, _, _, _), (top, curve, _, _) = TABLE
    low = x.clamp(-1.0, KNOT)
    left = 1.0 - x.clamp(KNOT, 1.0)
    lower = ((F.leaky_relu(low, below / above) * above + b) * low + c) * low
    return lower + ((left * -top + (3 * top + curve)) * (left * left) + (1.0 - AT_KNOT))


def pcp_reference(x: Tensor) -> Tensor:
    """P(x) by Horner's rule on the piece that x lies on; the oracle of :func:`pcp`."""
    t = x.clamp(-1.0, 1.0)
    pieces = [((a * t + b) * t + c) * t + d for a, b, c, d in TABLE]
    return torch.where(t < 0, pieces[0], torch.where(t < KNOT, pieces[1], pieces[2]))


class PCP(nn.Module):
    """:func:`pcp` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return pcp(x)
