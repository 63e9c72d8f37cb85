"""Claims about transfer on planted answers: verdicts each of three ways, and multipliers known by construction."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from reproductions.kept import answer_file
from reproductions.page import Claim
from reproductions.transfer import (
    FAR,
    IMAGES,
    NEAR,
    TEXT,
    _accuracy,
    _cells,
    _counted,
    _design,
    _effective_by_error,
    _laws,
    _most_of,
    _multipliers,
    details,
    low_data,
    power,
)
from reproductions.verdicts import FAILS, HOLDS, OPEN, Verdict, by_error

from isoloss.worth.transfer import regime

Ends = tuple[float, float]
DATA = (25, 100, 400, 1600, 6400)
LUCK = (0.98, 1.0, 1.02)
BELOW_HALF, BETA, BETA_SAME, ALPHA_APART = range(4)


def exponent(ends: Ends, name: str = "estimate") -> dict[str, float]:
    return {name: sum(ends) / 2, "low": ends[0], "high": ends[1]}


def laws(
    alpha: tuple[Ends, Ends] = ((0.1, 0.2), (0.1, 0.2)),
    beta: tuple[Ends, Ends] = ((0.3, 0.4), (0.3, 0.4)),
    apart: Mapping[str, Ends] | None = None,
    data: tuple[tuple[int, ...], tuple[int, ...]] = (DATA[:3], DATA[:3]),
) -> list[Claim]:
    """The claims of two laws, near and far, at two sizes N."""
    design = [[[N, D] for N in (10, 20) for D in amounts] for amounts in data]
    found = {
        "laws": [
            {
                "source": source, "reason": None, "cells": len(design[i]), "design": design[i],
                "alpha": exponent(alpha[i]), "beta": exponent(beta[i]),
            }
            for i, source in enumerate(("near", "far"))
        ],
        "between_sources": [
            {
                "first": "near", "second": "far", "reason": None, "cells": 2 * len(set(data[0]) & set(data[1])),
                **{
                    name: exponent((apart or {}).get(name, (0.0, 0.1)), "difference")
                    for name in ("alpha", "beta")
                },
            }
        ],
    }  # fmt: skip
    return _laws(found, "", "near", "far")


@pytest.mark.parametrize(
    ("near", "far", "verdict"),
    [
        ((0.1, 0.2), (0.3, 0.49), HOLDS),
        ((0.1, 0.2), (0.51, 0.7), FAILS),
        ((0.1, 0.2), (0.45, 0.55), OPEN),
    ],
)
def test_alpha_is_below_a_half_for_both_sources(near: Ends, far: Ends, verdict: Verdict) -> None:
    assert laws(alpha=(near, far))[BELOW_HALF].verdict == verdict


@pytest.mark.parametrize(
    ("near", "far", "verdict"),
    [
        ((0.19, 0.57), (0.3, 0.4), HOLDS),
        ((0.3, 0.4), (0.59, 0.7), FAILS),
        ((0.1, 0.17), (0.17, 0.4), FAILS),
        ((0.3, 0.4), (0.17, 0.4), OPEN),
    ],
)
def test_beta_is_that_of_the_paper_for_both_sources(near: Ends, far: Ends, verdict: Verdict) -> None:
    assert laws(beta=(near, far))[BETA].verdict == verdict


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [((-0.19, 0.1), HOLDS), ((0.21, 0.4), FAILS), ((-0.4, -0.21), FAILS), ((-0.1, 0.21), OPEN)],
)
def test_beta_is_the_same_within_a_margin(ends: Ends, verdict: Verdict) -> None:
    assert laws(apart={"beta": ends})[BETA_SAME].verdict == verdict


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [((0.06, 0.1), HOLDS), ((-0.1, -0.06), HOLDS), ((-0.04, 0.04), FAILS), ((0.01, 0.1), OPEN)],
)
def test_alpha_differs_by_more_than_a_margin(ends: Ends, verdict: Verdict) -> None:
    assert laws(apart={"alpha": ends})[ALPHA_APART].verdict == verdict


def test_the_margins_are_said() -> None:
    said = [claim.says for claim in laws()]
    assert "below 0.5" in said[BELOW_HALF] and "by more than 0.05" in said[ALPHA_APART]
    assert "within 0.2" in said[BETA] and "within 0.2" in said[BETA_SAME]


def test_few_amounts_of_data_judge_nothing() -> None:
    """Of one source: its own exponents and, as the sources then share few, the differences."""
    found = laws(data=(DATA[:2], DATA[:3]), apart={"alpha": (0.06, 0.1), "beta": (0.3, 0.4)})
    assert [claim.verdict for claim in found] == [OPEN] * 4
    for claim in found[BETA_SAME:]:
        assert "4 cells" in claim.found and "2 sizes of data, too few to judge: 25, 100" in claim.found
        assert "[" not in claim.found
    near, far = found[BETA].found.split("; ")
    assert "[" not in near and "too few" in near
    assert "[0.30, 0.40]" in far and "too few" not in far


def test_amounts_that_few_cells_share_judge_no_difference() -> None:
    """Each source has three, both have two."""
    found = laws(data=(DATA[:3], DATA[1:4]), apart={"alpha": (0.06, 0.1), "beta": (-0.1, 0.1)})
    assert [claim.verdict for claim in found] == [HOLDS, HOLDS, OPEN, OPEN]
    assert "2 sizes of data, too few to judge: 100, 400" in found[BETA_SAME].found


def test_a_refused_law_says_why() -> None:
    found = {
        "laws": [
            {
                "source": "near",
                "reason": None,
                "cells": 6,
                "design": [[N, D] for N in (10, 20) for D in DATA[:3]],
                **{name: exponent((0.3, 0.4)) for name in ("alpha", "beta")},
            },
            {"source": "far", "reason": "one cell"},
        ],
        "between_sources": [{"first": "near", "second": "far", "reason": "no cell in common"}],
    }
    claims = _laws(found, "", "near", "far")
    assert [claim.verdict for claim in claims] == [OPEN] * 4
    assert "far (one cell)" in claims[BETA].found and "no cell in common" in claims[ALPHA_APART].found


@pytest.mark.parametrize(
    ("cheaper", "dearer", "verdict"), [(6, 4, HOLDS), (5, 0, OPEN), (0, 6, FAILS), (0, 5, OPEN), (3, 3, OPEN)]
)
def test_most_is_more_than_half(cheaper: int, dearer: int, verdict: Verdict) -> None:
    assert _most_of(cheaper, dearer, 10) == verdict


def test_ratios_count_by_their_whole_interval() -> None:
    """A bound without an interval is sure of nothing."""
    ends = [(1.1, 3.0), (1.1, None), (0.9, 3.0), (None, 0.9), (0.2, 0.9), (None, None), (1.0, 1.0)]
    ratios = [{"value": None, "low": low, "high": high, "side": "more", "bound": 4.0} for low, high in ends]
    assert _counted([*ratios, None]) == (2, 2, 7)


def ossification(near: Ends, far: Ends) -> Claim:
    """Cells at two sizes N and two of data, those of the small model with much data as given, the others reversed."""

    def cell(source: str, N: int, D: int) -> dict[str, Any]:
        corner = {"near": near, "far": far}[source]
        low, high = corner if (N, D) == (10, 100) else (1 / corner[1], 1 / corner[0])
        ratio = {"ratio": math.sqrt(low * high), "low": low, "high": high}
        return {"source": source, "N": N, "D_F": D, "over_scratch": ratio, "ossified": (N, D) == (10, 100)}

    cells = [cell(source, N, D) for source in ("near", "far") for N in (10, 20) for D in (25, 100)]
    pretrained = {"source": "near", "N": 10, "D_F": 0, "over_scratch": None, "ossified": False}
    (claim,) = _cells({"cells": [*cells, pretrained]}, "")
    return claim


@pytest.mark.parametrize(
    ("near", "far", "verdict"),
    [
        ((1.1, 1.2), (1.01, 1.3), HOLDS),
        ((0.8, 0.9), (0.9, 0.99), FAILS),
        ((1.1, 1.2), (0.9, 1.1), OPEN),
        ((1.1, 1.2), (0.8, 0.9), OPEN),
    ],
)
def test_ossification_is_that_of_the_smallest_model_with_the_most_data(near: Ends, far: Ends, verdict: Verdict) -> None:
    claim = ossification(near, far)
    assert claim.verdict == verdict and claim.found.startswith("2 of 8 cells")


Gain = Callable[[str, int, int, int], float]


def planted(gain: Gain, sizes: tuple[int, ...] = (10, 20), measured: Mapping[str, float | None] | None = None) -> Any:
    """Three seeds from scratch with error 1 / sqrt(D), and fine-tuned with that of ``gain`` times the data.

    ``gain`` takes source, N, D and seed. The loss is the square root of the error, but for luck that a seed's runs
    share, so it says the same multipliers. ``measured``: every cell's multiplier as the answer has it.
    """

    def run(arm: str, N: int, D: int, seed: int) -> dict[str, Any]:
        error = (D * (1.0 if arm == "scratch" else gain(arm, N, D, seed))) ** -0.5
        return {
            "arm": f"{arm} · size {D}", "N": N, "seed": str(seed), "status": "done", "extra": False,
            "cell": {"data.size": f"{D} samples", "model.width": N, "seed": seed},
            "loss": LUCK[seed] * math.sqrt(error), "metrics": {"accuracy": 1 - error * LUCK[seed]},
        }  # fmt: skip

    sources = NEAR[IMAGES], FAR[IMAGES]
    return {
        "runs": [run(arm, N, D, s) for arm in ("scratch", *sources) for N in sizes for D in DATA for s in range(3)],
        "transfer": {
            "scratch": "scratch",
            "unit": "samples",
            "cells": [
                {"source": source, "N": N, "D_F": float(D), "multiplier": measured or {"low": 0.5, "high": 2.0}}
                for source in sources
                for N in sizes
                for D in DATA
            ],
        },
    }


def always(factor: float) -> Gain:
    return lambda *_: factor


def same_loss(answer: Any) -> Any:
    """With losses that know of no gain."""
    for run in answer["runs"]:
        run["loss"] = float(run["cell"]["data.size"].split()[0]) ** -0.25
    return answer


@pytest.mark.parametrize("factor", [4.0, 2.0, 0.25])
def test_effective_data_at_equal_error_is_what_was_planted(factor: float) -> None:
    answer = same_loss(planted(always(factor)))
    inside = [cell for cell in _multipliers(answer, value=by_error) if 25 < cell["D_F"] * factor < 6400]
    assert len(inside) >= 12
    for cell in inside:
        found = cell["multiplier"]
        assert (found["value"], found["low"], found["high"]) == pytest.approx((factor,) * 3, rel=0.02)
    at_equal_loss = [cell["multiplier"]["value"] for cell in _multipliers(answer)]
    assert at_equal_loss == pytest.approx([1.0] * 20)


def test_effective_data_of_one_seed_is_its_own() -> None:
    answer = planted(lambda source, N, D, seed: (2.0, 3.0, 5.0)[seed])
    for seed, factor in (("0", 2.0), ("1", 3.0), ("2", 5.0)):
        found = [cell["multiplier"]["value"] for cell in _multipliers(answer, [seed]) if cell["D_F"] < 1600]
        assert found == pytest.approx([factor] * 12)


def test_what_no_arm_asked_for_is_no_row() -> None:
    """Runs that a study adds by itself would otherwise be a second one at their place."""
    answer = planted(always(2.0))
    answer["runs"].append({**answer["runs"][0], "extra": True, "loss": 9.0})
    answer["runs"].append({**answer["runs"][0], "status": "diverged", "loss": None})
    assert _multipliers(answer) == _multipliers(planted(always(2.0)))


def test_bytes_are_counted_as_the_answer_counts_them() -> None:
    """The study file says 25 bytes where whole windows have 24."""
    answer = planted(always(4.0))
    for cell in answer["transfer"]["cells"]:
        cell["D_F"] -= cell["D_F"] == 25
    assert {cell["D_F"] for cell in _multipliers(answer)} == {24, 100, 400, 1600, 6400}
    answer["transfer"]["cells"] = [cell for cell in answer["transfer"]["cells"] if cell["D_F"] > 24]
    with pytest.raises(ValueError, match="shorter"):
        _multipliers(answer)


def mixed(source: str, N: int, D: int, seed: int) -> float:
    """A gain of 4 for the small model; for the large one a factor that no interval tells from 1."""
    return 4.0 if N == 10 else (0.3, 1.0, 3.3)[seed]


@pytest.mark.parametrize(
    ("gain", "counts", "verdict"),
    [
        # With the most data, both with factor 4 and 1/4, an end of the curve leaves one of five cells undecided.
        (always(4.0), "at equal error 8 more, 0 less", HOLDS),
        (always(0.25), "at equal error 0 more, 8 less", FAILS),
        (mixed, "at equal error 4 more, 0 less", OPEN),
    ],
)
def test_at_equal_error_most_cells_decide(gain: Gain, counts: str, verdict: Verdict) -> None:
    for claim in _effective_by_error(same_loss(planted(gain))):
        assert claim.verdict == verdict
        assert claim.found == f"of 10 cells, by their whole interval, {counts}; at equal loss 0 more, 0 less"


def worse_at_last(source: str, N: int, D: int, seed: int) -> float:
    return 0.25 if D > 1600 else 4.0


def unclear_at_last(source: str, N: int, D: int, seed: int) -> float:
    return (0.3, 1.0, 3.3)[seed] if D > 1600 else 4.0


@pytest.mark.parametrize(("gain", "verdict"), [(always(4.0), HOLDS), (worse_at_last, FAILS), (unclear_at_last, OPEN)])
def test_the_error_is_lower_at_each_size_of_data(gain: Gain, verdict: Verdict) -> None:
    claims = _accuracy(planted(gain))
    assert [claim.verdict for claim in claims] == [verdict] * 2
    # From scratch 20 % and 10 % are wrong, fine-tuned half of them.
    assert "25 samples -10.00 [" in claims[0].found and "100 samples -5.00 [" in claims[0].found


def cells_of(text: str, source: str, data: str) -> list[str]:
    """The row of a Markdown table."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    (found,) = [row for row in rows if row[:2] == [source, data]]
    return found[2:]


def test_the_spread_between_pilot_seeds_says_what_is_resolved() -> None:
    """Pilot seeds at 2.2x and 2x/1.1 have sd sqrt(2) ln 1.1 = 0.1348; t(2) = 2.920 and t(7) = 1.895 at 95 %."""
    answer = planted(lambda source, N, D, seed: 2.0 * (1.1, 1 / 1.1, 2.0)[seed], (10,), {"low": 1.0, "high": 4.0})
    # exp(2.920 * 0.1348 / sqrt 3) = 1.255; t s / sqrt n <= ln 1.1 first at n = 8: 0.0903, after 0.0990 at 7.
    assert cells_of(power(answer), "half", "100") == ["1 of 1", "0.1348", "1.255×", "8", "2.00× (1 of 1)"]
    assert cells_of(power(answer), "half", "6.4k") == ["0 of 1", "–", "–", "–", "2.00× (1 of 1)"]


def test_the_spread_is_pooled_over_sizes() -> None:
    """A second size without any spread halves the variance: 0.0953 = ln 1.1, so t / sqrt n is to be below 1."""
    answer = planted(lambda source, N, D, seed: 2.0 * (1.1, 1 / 1.1, 2.0)[seed] if N == 10 else 3.0)
    # exp(2.920 * 0.0953 / sqrt 3) = 1.174; t(3) / 2 = 1.177 and t(4) / sqrt 5 = 0.953.
    assert cells_of(power(answer), "digits", "100")[:4] == ["2 of 2", "0.0953", "1.174×", "5"]


def test_a_size_where_a_pilot_leaves_its_curve_is_left_out() -> None:
    """At N = 20 seed 1 is beyond the data there is."""
    answer = planted(lambda source, N, D, seed: 2.0 * (1.1, 1 / 1.1, 2.0)[seed] * (100 if (N, seed) == (20, 1) else 1))
    assert cells_of(power(answer), "half", "400")[:4] == ["1 of 2", "0.1348", "1.255×", "8"]


def test_what_it_came_to_is_the_mean_half_interval_of_cells_with_both_ends() -> None:
    answer = planted(always(2.0))
    ends = {10: {100.0: (1.0, 4.0), 400.0: (1.0, 4.0), 1600.0: (2.0, 2.2)}, 20: {100.0: (1.0, 16.0)}}
    for cell in answer["transfer"]["cells"]:
        low, high = ends[cell["N"]].get(cell["D_F"], (1.0, None))
        cell["multiplier"] = {"low": low, "high": high}
    text = power(answer)
    # Factors of 2 and 4 have the geometric mean 2.83; sqrt(2.2 / 2) = 1.05.
    assert cells_of(text, "half", "100")[-1] == "2.83× (2 of 2)"
    assert cells_of(text, "half", "400")[-1] == "2.00× (1 of 2)"
    assert cells_of(text, "half", "1.6k")[-1] == "1.05× (1 of 2)"
    assert cells_of(text, "half", "25")[-1] == "–"
    assert "at most 1.1× in 2 of 10 rows" in text and "by seeds 0, 1 alone" in text


def test_the_low_data_regime_is_counted_by_source() -> None:
    """D(N) between 1000 and 4000: low data up to 100, beyond above 400."""
    limit = {"value": 2000.0, "bound": None, "low": 1000.0, "high": 4000.0, "side": "", "open": ""}
    data = {"near": (50.0, 100.0, 200.0, 300.0, 500.0), "far": (600.0,)}
    answer = {
        "transfer": {
            "sources": ["near", "far"],
            "cells": [
                {"source": source, "N": 10, "D_F": D, "regime": regime(D, limit)}
                for source in data
                for D in data[source]
            ],
            "laws": [{"source": "far", "reason": "one cell"}, {"source": "near", "design": [[10, 50], [10, 200]]}],
        }
    }
    text = low_data(answer)
    assert "near has 2 of 5 cells there, 1 beyond, and of 2 it is not resolved (1 of these are in its law)" in text
    assert "far has 0 of 1 cells there, 1 beyond, and of 0 it is not resolved" in text
    assert "10% of D(N)" in text and "99%" in text


@pytest.mark.parametrize("study", [TEXT, IMAGES])
def test_kept_answers_are_read_as_isoloss_reads_them(study: str) -> None:
    """Runs give the kept multipliers, and two laws share as many cells as isoloss compared."""
    answer = json.loads(answer_file(study, study).read_text())
    found = answer["transfer"]
    for again, cell in zip(_multipliers(answer), found["cells"], strict=True):
        for name in ("value", "bound", "low", "high"):
            value = cell["multiplier"][name]
            assert again["multiplier"][name] == (None if value is None else pytest.approx(value, rel=1e-6))
    first, second = (_design(law) for law in found["laws"])
    assert len(first & second) == found["between_sources"][0]["cells"]
    regimes, resolved = details(answer)
    assert regimes.count("cells there") == 2 and resolved.count("\n| ") == 2 + 2 * 5
