"""The studies of the repository: each one plans, and its small twin runs and answers its questions by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import isoloss

FOLDER = Path(__file__).resolve().parents[1] / "studies"
SMALL = FOLDER / "small"


def trained(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: str = "large-batch") -> dict[str, Any]:
    """The answer of a small study, run to its end, its page with the section that it is about."""
    pytest.importorskip("sklearn")
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    results = isoloss.run(SMALL / f"{name}.yaml", store=tmp_path / "store", quiet=True)
    assert {r.status for r in results.results} == {"done"}
    isoloss.report(results.answer(), tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert f'id="{section}' in page
    return results.answer()


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=pytest.mark.slow if "transfer" in path.stem else ())
        for path in sorted(FOLDER.glob("*.yaml"))
    ],
)
def test_every_study_plans(path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ISOLOSS_DATA", str(shared_data))
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    planned = isoloss.plan(path)
    assert planned.shared.updates > 0


@pytest.mark.slow
def test_optimizers_at_scale_gives_speed_up_curves_and_critical_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = trained("optimizers-at-scale", tmp_path, monkeypatch)
    (size,) = answer["large_batch"]["sizes"]
    arms = {"sgd", "adamw", "lamb"}
    assert {c["arm"] for c in size["cells"]} == arms
    for cell in size["cells"]:
        assert cell["speedup"]["low"] is not None and len(cell["by_seed"]) == 3
    fitted = {c["arm"]: c for c in size["critical"]}
    assert fitted["sgd"]["B_crit"]["ratio"] > 0 and fitted["sgd"]["predicted"]["ratio"] > 0
    assert {leave["arm"] for leave in size["leaves"]} == arms
    compared = {(w["arm"], w["reference"]) for w in answer["worth"]}
    assert ("adamw · batch 64", "sgd · batch 64") in compared and ("sgd · batch 64", "sgd · batch 16") in compared
    assert all(w["reference"].startswith("sgd") for w in answer["worth"])


@pytest.mark.slow
def test_train_longer_says_what_each_ingredient_closes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = trained("train-longer", tmp_path, monkeypatch)
    (size,) = answer["large_batch"]["sizes"]
    closed = {m["arm"]: m for m in size["gap"]["methods"]}
    assert set(closed) == {"lr", "ghost", "lr + ghost", "regime", "lr + ghost + regime"}
    assert all(m["seeds"] == 3 and m["low"] < m["share"] < m["high"] for m in closed.values())
    # What the poster's table says in direction: the scaled rate closes a part, the adapted regime all of it.
    assert 0 < closed["lr"]["share"] < closed["lr + ghost + regime"]["share"]
    assert closed["lr + ghost + regime"]["low"] > 0.8
    # Equal batches of equal rules are one training.
    assert answer["sharing"]["updates"]["shared"] < 0.6 * answer["sharing"]["updates"]["unshared"]
    assert answer["distances"]


@pytest.mark.slow
def test_extrapolation_charges_every_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = trained("extrapolation", tmp_path, monkeypatch)
    ratios = {w["arm"]: w for w in answer["worth"]}
    local, past = ratios["local extragradient · batch 64"], ratios["past gradient · batch 64"]
    assert local["compute"]["ratio"] == pytest.approx(local["data"]["ratio"] / 2, rel=1e-6)
    assert past["compute"]["ratio"] == pytest.approx(past["data"]["ratio"], rel=1e-6)
    (size,) = answer["large_batch"]["sizes"]
    assert len({c["arm"] for c in size["cells"]}) >= 6


@pytest.mark.slow
def test_transfer_text_gives_a_law_and_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = trained("transfer-text", tmp_path, monkeypatch, "transfer")
    found = answer["transfer"]
    assert (found["scratch"], found["sources"]) == ("scratch", ["docs"]) and len(found["cells"]) == 2 * 4
    # English docstrings help Python code, and the less code there is, the more.
    for N in {c["N"] for c in found["cells"]}:
        worth = {c["D_F"]: c["multiplier"]["value"] for c in found["cells"] if c["N"] == N}
        assert worth[960] > 1.5 and worth[960] > worth[16_000]
    (law,) = found["laws"]
    assert law["reason"] is None and law["cells"] >= 4
    for route in law["routes"].values():
        assert {"k", "alpha", "beta"} <= set(route) and route["beta"]["low"] < route["beta"]["high"]
    assert found["advice"].startswith("Fine-tune docs") and answer["summary"][0] == found["advice"]
    met = {entry["part"]: entry for entry in found["contamination"]}
    # The docstrings that the source consists of are stripped from the code.
    assert all(entry["shared"] < 0.01 * entry["windows"] for entry in met.values())
    repeats = any(entry["shared"] for entry in met.values())
    assert any("holds target data too" in caveat for caveat in answer["caveats"]) == repeats
    assert all(entry["C_pretrain"] > 0 for entry in found["compute"]) and found["compute"]
    # A seed's pre-training is trained once for its four sizes of target data.
    assert answer["sharing"]["updates"]["shared"] == 2 * 3 * (200 + 8 * 500)


@pytest.mark.slow
def test_transfer_images_says_why_there_is_no_law(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = trained("transfer-images", tmp_path, monkeypatch, "transfer")["transfer"]
    assert len(found["cells"]) == 2 * 5 and all(c["seeds"] == 3 for c in found["cells"])
    (law,) = found["laws"]
    assert law["reason"] or law["cells"] >= 4
    assert sum(law["left_out"].values()) + (law.get("cells") or 0) >= (len(found["cells"]) if law["reason"] else 4)
    assert any("half" in sentence and ("no law" in sentence or "k = " in sentence) for sentence in found["text"])
    assert {entry["part"]: entry["shared"] for entry in found["contamination"]} == {"train": 0, "A": 0, "B": 0}
