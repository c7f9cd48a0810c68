"""PCP: its table follows from its defining conditions, its branch-free form is the same function."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from poster_edge.models.pcp import AT_KNOT, KNOT, TABLE, pcp, pcp_reference

#: The paper's parameters: slope at 0 over -P(-1), the knot, and P(-1).
SLOPE, X, LOWEST = Fraction(185, 100), Fraction(19, 100), Fraction(-24, 100)
KNOTS = (-1.0, 0.0, KNOT, 1.0)


def value(x: Fraction) -> list[Fraction]:
    """What the coefficients of x³, x², x and 1 are multiplied by in P(x)."""
    return [x**3, x**2, x, Fraction(1)]


def slope(x: Fraction) -> list[Fraction]:
    return [3 * x**2, 2 * x, Fraction(1), Fraction(0)]


def curvature(x: Fraction) -> list[Fraction]:
    return [6 * x, Fraction(2), Fraction(0), Fraction(0)]


def solve(rows: list[list[Fraction]]) -> list[Fraction]:
    """Gauss-Jordan on rows of coefficients with the right side last."""
    for i in range(len(rows)):
        pivot = next(r for r in range(i, len(rows)) if rows[r][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for r in range(len(rows)):
            if r != i:
                rows[r] = [a - rows[r][i] * b for a, b in zip(rows[r], rows[i], strict=True)]
    return [row[-1] for row in rows]


def derived() -> list[list[Fraction]]:
    """The three inner pieces from the conditions alone, in exact arithmetic."""
    zero, one, none = Fraction(0), Fraction(1), [Fraction(0)] * 4
    start = -SLOPE * LOWEST
    low = solve([[*value(-one), LOWEST], [*slope(-one), zero], [*value(zero), zero], [*slope(zero), start]])

    def joined(part: list[Fraction]) -> list[Fraction]:
        return [*part, *(-v for v in part), zero]

    both = solve(
        [
            [*value(zero), *none, zero],
            [*slope(zero), *none, start],
            [*curvature(zero), *none, 2 * low[1]],
            *(joined(part) for part in (value(X), slope(X), curvature(X))),
            [*none, *value(one), one],
            [*none, *slope(one), zero],
        ]
    )
    return [low, both[:4], both[4:]]


def derivatives(x: float) -> list[torch.Tensor]:
    """Value, slope and curvature at one point by autograd, in float64."""
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y = pcp(t)
    (first,) = torch.autograd.grad(y, t, create_graph=True)
    (second,) = torch.autograd.grad(first, t)
    return [y.detach(), first.detach(), second]


def test_table_follows_from_the_conditions() -> None:
    exact = derived()
    for row, expected in zip(TABLE, exact, strict=True):
        assert [abs(a - float(e)) < 1e-15 for a, e in zip(row, expected, strict=True)] == [True] * 4
    assert exact[1][0] == Fraction(2993, 950)
    assert exact[2] == [Fraction(-8293, 4050), Fraction(10567, 3375), Fraction(-803, 6750), Fraction(361, 10125)]
    at_knot = sum(a * b for a, b in zip(exact[1], value(X), strict=True))
    assert at_knot == Fraction(5601713, 50000000)
    assert float(at_knot) == AT_KNOT


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-14), (torch.float32, 5e-7)], ids=["float64", "float32"])
def test_branch_free_form_is_the_same_function(dtype: torch.dtype, atol: float) -> None:
    x = torch.cat((torch.linspace(-3, 3, 60_001, dtype=dtype), torch.tensor(KNOTS, dtype=dtype)))
    assert torch.allclose(pcp(x), pcp_reference(x), rtol=0, atol=atol)
    exact = derived()
    for point in (-0.7, -0.01, 0.05, 0.18, 0.3, 0.9):
        piece = exact[0 if point < 0 else 1 if point < KNOT else 2]
        expected = float(sum(a * b for a, b in zip(piece, value(Fraction(point)), strict=True)))
        assert float(pcp(torch.tensor(point, dtype=dtype))) == pytest.approx(expected, abs=atol)


def test_ends_are_flat() -> None:
    x = torch.tensor([-1e30, -7.0, -1.0, 1.0, 7.0, 1e30])
    assert pcp(x).tolist() == pytest.approx([-0.24] * 3 + [1.0] * 3, abs=1e-7)


@pytest.mark.parametrize("knot", [0.0, KNOT])
def test_twice_continuously_differentiable_inside(knot: float) -> None:
    below, above = derivatives(knot - 1e-9), derivatives(knot + 1e-9)
    for a, b in zip(below, above, strict=True):
        assert abs(a - b) < 1e-7
    assert float(above[2]) == pytest.approx(0.336 if knot == 0 else 3.9276, abs=1e-6)


@pytest.mark.parametrize(("end", "jump"), [(-1.0, 0.552), (1.0, -6.024)], ids=["-1", "1"])
def test_only_once_continuously_differentiable_at_the_ends(end: float, jump: float) -> None:
    inside, outside = derivatives(end * (1 - 1e-9)), derivatives(end * (1 + 1e-9))
    assert abs(inside[0] - outside[0]) < 1e-12
    assert abs(inside[1] - outside[1]) < 1e-7
    assert float(outside[2]) == 0.0
    assert float(inside[2]) == pytest.approx(jump, abs=1e-5)


def test_slope() -> None:
    x = torch.linspace(-1, 1, 200_001, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(pcp(x).sum(), x)
    x, steepest = x.detach(), int(found.argmax())
    assert float(found[steepest]) == pytest.approx(1.47684, abs=5e-6)
    assert float(x[steepest]) == pytest.approx(0.50968, abs=5e-6)
    assert float(found.min()) >= -1e-12, "P never falls"
    assert derivatives(0.0)[1].item() == pytest.approx(0.444, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_no_gradient_beyond_the_ends(dtype: torch.dtype) -> None:
    x = torch.tensor([-300.0, -1.01, 1.01, 300.0], dtype=dtype, requires_grad=True)
    pcp(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0] * 4


def test_autograd_away_from_the_knots() -> None:
    x = torch.linspace(-1.4, 1.4, 57, dtype=torch.float64)
    x = x[(x[:, None] - torch.tensor(KNOTS, dtype=torch.float64)).abs().min(dim=1).values > 1e-3].requires_grad_()
    assert len(x) > 50
    assert torch.autograd.gradcheck(pcp, x)
    assert torch.autograd.gradgradcheck(pcp, x)


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float16, 1.5e-3), (torch.bfloat16, 1.0e-2)], ids=["float16", "bfloat16"]
)
def test_half_precision(dtype: torch.dtype, atol: float) -> None:
    """Every number of the type between -1.2 and 1.2; one unit in the last place at 1 is 9.8e-4 and 7.8e-3."""
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    x = numbers[numbers.double().abs() <= 1.2]
    error = (pcp(x).double() - pcp_reference(x.double())).abs()
    assert pcp(x).dtype == dtype
    assert len(x) > 30_000
    assert float(error.max()) < atol
    assert pcp(torch.tensor([1.0, 60_000.0], dtype=dtype)).tolist() == [1.0, 1.0]
