"""The line between two sets of weights against a parabola, and what it leaves behind."""

from __future__ import annotations

import optimizer_cases as cases
import pytest
import torch

from isoloss.methods.interpolate import barrier, loss_along_line

AT = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)


def test_a_quadratic_loss_is_a_parabola_along_the_line() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 4), (5,))
    start, end, weights = ([torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(3))
    before = [w.clone() for w in weights]
    found = loss_along_line(lambda: sum(float((w * w).sum()) for w in weights), weights, start, end, AT)
    a2 = sum(float((s * s).sum()) for s in start)
    b2 = sum(float((e * e).sum()) for e in end)
    ab = sum(float((s * e).sum()) for s, e in zip(start, end, strict=True))
    assert found == pytest.approx([(1 - a) ** 2 * a2 + 2 * a * (1 - a) * ab + a * a * b2 for a in AT], rel=1e-12)
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))


def test_ends_are_exact_and_the_model_is_left_as_it_was() -> None:
    model, other = cases.net(0), cases.net(1)
    loss = cases.closure(model, 0)
    expected = [float(cases.closure(m, 0)()) for m in (model, other)]
    before = cases.weights(model)

    def value() -> float:
        with torch.enable_grad():
            return float(loss())

    # The line begins at the very tensors that are written to.
    weights = list(model.parameters())
    found = loss_along_line(value, weights, weights, list(other.parameters()), (1.0, 0.0, 0.5))
    assert found[:2] == [expected[1], expected[0]]
    assert found[2] not in expected
    assert torch.equal(cases.weights(model), before)


def test_statistics_are_refreshed_at_every_point_and_errors_give_the_weights_back() -> None:
    weights = [torch.zeros(2)]
    seen: list[float] = []
    line = ([torch.zeros(2)], [torch.ones(2)])
    loss_along_line(
        lambda: seen[-1], weights, *line, (0.0, 0.5, 1.0), refresh=lambda: seen.append(float(weights[0][0]))
    )
    assert seen == [0.0, 0.5, 1.0]
    weights[0].fill_(7.0)
    with pytest.raises(ZeroDivisionError):
        loss_along_line(lambda: 1 / 0, weights, *line, (0.5,))
    assert weights[0].tolist() == [7.0, 7.0]


def test_barrier() -> None:
    assert barrier((0, 0.5, 1), (1.0, 3.0, 2.0)) == 1.5
    assert barrier((0, 0.5, 1, 2), (2.0, 1.0, 1.0, 50.0)) == 0.0
    with pytest.raises(ValueError, match="0 and 1 among them"):
        barrier((0, 0.5), (1.0, 2.0))


def test_bad_input() -> None:
    weights = [torch.zeros(2, 3)]
    with pytest.raises(ValueError, match=r"start has a tensor of shape \(3, 2\) for a weight of \(2, 3\)"):
        loss_along_line(lambda: 0.0, weights, [torch.zeros(3, 2)], weights, (0.0,))
    with pytest.raises(ValueError, match="end has 2 tensors"):
        loss_along_line(lambda: 0.0, weights, weights, weights * 2, (0.0,))
