"""The log-sum-exp kernel and the jets give the same f, gradient and Hessian; both match finite
differences."""

from __future__ import annotations

import numpy as np
import pytest

from isoloss.laws import FORMS, SumOfPowers
from isoloss.laws.kernel import JetModel

SUMS = sorted(name for name, form in FORMS.items() if isinstance(form, SumOfPowers))


def random_case(name: str, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    form = FORMS[name]
    logs = {v: rng.normal(size=17) for v in form.variables}
    theta = rng.uniform(0.2, 0.9, size=(4, len(form.parameters)))
    return logs, theta, rng.normal(size=(4, 17)), rng.uniform(size=(4, 17))


@pytest.mark.parametrize("name", SUMS)
def test_kernel_equals_jets(name: str) -> None:
    logs, theta, a, b = random_case(name)
    kernel, jet = FORMS[name].model(logs), JetModel(FORMS[name], logs)
    (f, state), (g, other) = kernel.forward(theta), jet.forward(theta)
    np.testing.assert_allclose(f, g, rtol=1e-12)
    for curved in (True, False):
        for mine, theirs in zip(kernel.pull(state, a, b, curved), jet.pull(other, a, b, curved), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", sorted(FORMS))
def test_contracted_derivatives_match_finite_differences(name: str) -> None:
    logs, theta, a, _ = random_case(name, seed=3)
    if name.startswith("data-constrained"):
        logs["unique"] = logs["D"] - 1.0  # away from the kink at one pass
    if name in ("m4", "log-linear", "log-growth"):
        theta[:, 0] += 2.0  # keeps the argument of the logarithm positive
        logs = {variable: 0.5 * np.abs(values) for variable, values in logs.items()}
    if name == "m4":
        theta[:, 1] = theta[:, 0] + 1.0
    model = FORMS[name].model(logs)
    _, state = model.forward(theta)
    zero = np.zeros_like(a)
    gradient, hessian = model.pull(state, a, zero)

    def contracted(point: np.ndarray) -> np.ndarray:
        return np.sum(a * model.forward(point)[0], axis=1)

    h = 1e-4
    for i in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[:, i] = h
        slope = (contracted(theta + step) - contracted(theta - step)) / (2 * h)
        np.testing.assert_allclose(gradient[:, i], slope, rtol=2e-5, atol=2e-6)
        up = model.pull(model.forward(theta + step)[1], a, zero)[0]
        down = model.pull(model.forward(theta - step)[1], a, zero)[0]
        np.testing.assert_allclose(hessian[:, i], (up - down) / (2 * h), rtol=2e-5, atol=2e-5)


def test_rows_may_differ_by_problem() -> None:
    """One batch with its own rows per problem equals the problems one by one."""
    rng = np.random.default_rng(1)
    form = FORMS["m2"]
    logs = rng.normal(size=(5, 11))
    theta, a, b = rng.uniform(0.1, 1.0, size=(5, 3)), rng.normal(size=(5, 11)), rng.uniform(size=(5, 11))
    together = form.model({"x": logs})
    f, state = together.forward(theta)
    g, h = together.pull(state, a, b)
    for k in range(5):
        alone = form.model({"x": logs[k]})
        f_k, state_k = alone.forward(theta[k : k + 1])
        g_k, h_k = alone.pull(state_k, a[k : k + 1], b[k : k + 1])
        np.testing.assert_allclose(f[k], f_k[0], rtol=1e-13)
        np.testing.assert_allclose(g[k], g_k[0], rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(h[k], h_k[0], rtol=1e-10, atol=1e-13)
