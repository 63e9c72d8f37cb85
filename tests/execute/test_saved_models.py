"""A study that begins with a saved model of transformers: the library's loss, and misfits are told early."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import isoloss
from isoloss.execute.replay import audit
from isoloss.plan.lower import Lowering, open_source
from isoloss.recipe.errors import RunFailed, StudyError
from isoloss.store import Store
from isoloss.study import from_dict
from isoloss.train.loop import Trainer

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
LLAMA = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}
STUDY: dict[str, Any] = {
    "study": "saved models",
    "data": {"source": "synthetic", "order": 1, "vocabulary": 8, "tokens": 20_000, "context": 8},
    "model": {"family": "transformers", "type": "llama", **LLAMA},
    "training": {"optimizer": {"name": "adamw", "lr": 0.01}, "batch": "4 sequences"},
    "duration": "6 updates",
    "evaluation": {"tokens": 256},
    "checkpoint": {"every": "3 updates"},
    "grid": {"seed": [0, 1]},
    "baseline": {"arm": "scratch", "extra": "none"},
    "arms": {"scratch": {}, "given": {}},
}


@pytest.fixture(autouse=True)
def transformers() -> Any:
    try:
        import transformers
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"transformers does not import here: {error}")
    return transformers


@pytest.fixture
def folder(transformers: Any, tmp_path: Path) -> Path:
    config = transformers.AutoConfig.for_model("llama", **LLAMA, vocab_size=8, max_position_embeddings=64)
    torch.manual_seed(77)
    made = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    made.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def study(path: Path, **init: Any) -> dict[str, Any]:
    made = copy.deepcopy(STUDY)
    made["arms"]["given"]["init"] = {"weights": str(path), **init}
    return made


def lowered(made: dict[str, Any], arm: str = "given") -> Any:
    cell = next(c for c in from_dict(made).cells if c.arm == arm)
    return Lowering()(cell.config, 0.01, where=arm)


def labelled(library: Any, batch: torch.Tensor) -> float:
    """The library's own loss, which shifts the labels by one itself."""
    with torch.no_grad():
        return float(library(input_ids=batch, labels=batch).loss)


@pytest.mark.multiprocess
def test_it_begins_where_the_library_stands(transformers: Any, folder: Path, tmp_path: Path) -> None:
    results = isoloss.run(study(folder), tmp_path / "store", workers=1, quiet=True)
    assert {r.status for r in results.results} == {"done"} and results.trained == 2 * 2 * 6
    store = Store(tmp_path / "store", create=False)
    load = transformers.AutoModelForCausalLM.from_pretrained
    found = {(r.arm, r.cell["seed"]): r for r in results.results}
    for planned in results.stage.planned:
        run, source = planned.lowered.run, open_source(planned.lowered.data)
        trainer = Trainer(run.start, run.phases[0], source, run.numerics)
        library = load(folder, torch_dtype=torch.float32, attn_implementation="eager")
        if planned.cell.arm == "given":
            # After 0 updates: the weights of bfloat16 exactly, and the library's loss on the first batch.
            root = store.load(run.key(0)).state
            for name, value in library.named_parameters():
                assert torch.equal(root[f"model/{name}"], value), name
            batch = torch.from_numpy(source.batch(int(run.phases[0].rule.seeds["data"]), 0, 4, 8))
            assert store.trajectory(run.key(6))["loss"][0] == pytest.approx(labelled(library, batch), rel=1e-6)
            trainer.begin_with(library.state_dict(), reset_head=False)
        for offset in range(6):
            trainer.step(offset)
        end = store.load(run.key(6)).state
        for name, value in trainer.parameters.named(trainer.weights).items():
            assert torch.equal(end[f"model/{name}"], value), name
        library.load_state_dict(
            {
                name.removeprefix(
                    "model/",
                ): v
                for name, v in end.items()
                if name.startswith("model/")
            }
        )
        validation = torch.from_numpy(source.validation("B", 256, 8))
        given = found[planned.cell.arm, planned.cell.config["seed"]]
        assert given.loss == pytest.approx(labelled(library, validation), rel=1e-6)
    assert audit(store, 20) == (8, [])
    assert isoloss.run(study(folder), tmp_path / "store", workers=1, quiet=True).trained == 0


@pytest.mark.multiprocess
def test_sizes_and_types_may_be_swept(tmp_path: Path) -> None:
    made = {**STUDY, "grid": {"seed": [0]}, "arms": {"scratch": {}, "gpt2": {"model": {"type": "gpt2"}}}}
    made["model"] = {"family": "transformers", "type": "llama", "hidden_size": 16, "num_hidden_layers": 1}
    made["model"] |= {"num_attention_heads": 2}
    made["grid"] = {"seed": [0], "model.num_hidden_layers": [1, 2]}
    results = isoloss.run(made, tmp_path / "store", workers=1, quiet=True)
    assert {r.status for r in results.results} == {"done"} and results.trained == 4 * 6
    a_layer = 12 * 16 * 16 + 4 * 16 + 9 * 16  # gpt2: matrices, two norms, biases of 3, 1, 4 and 1 widths
    assert {r.N for r in results.results if r.arm == "gpt2"} == {n * a_layer + 2 * 16 for n in (1, 2)}


@pytest.mark.multiprocess
@pytest.mark.parametrize("precision", ["bf16-master", "bf16-autocast"])
def test_lower_precision_trains(folder: Path, tmp_path: Path, precision: str) -> None:
    made = study(folder)
    made["training"] = {**made["training"], "precision": precision}
    made["grid"] = {"seed": [0]}
    results = isoloss.run(made, tmp_path / "store", workers=1, quiet=True)
    assert {r.status for r in results.results} == {"done"}
    assert audit(Store(tmp_path / "store", create=False), 20)[1] == []


def test_what_is_in_the_key(transformers: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    (moved / "generation_config.json").unlink(missing_ok=True)
    run = lowered(study(folder)).run
    assert run.key(6) == lowered(study(moved)).run.key(6) != lowered(study(moved, head="reset")).run.key(6)
    assert run.start.model["code"] == {"semantics": 1, "version": f"transformers {transformers.__version__}"}
    scratch = lowered(study(folder), "scratch").run
    made = study(folder)
    made["model"] = {**made["model"], "attn_implementation": "sdpa"}
    assert lowered(made, "scratch").run.key(6) != scratch.key(6)
    monkeypatch.setattr(transformers, "__version__", "0.0.1")
    assert lowered(study(folder), "scratch").run.key(6) != scratch.key(6)
    # One's own word for the version: two installed ones have one key then.
    made = study(folder)
    made["model"] = {**made["model"], "version": "same"}
    key = lowered(made, "scratch").run.key(6)
    monkeypatch.undo()
    assert lowered(made, "scratch").run.key(6) == key


@pytest.mark.multiprocess
def test_a_folder_that_changes_after_the_plan(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isoloss.execute import outside_weights

    run = lowered(study(folder))
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(RunFailed, match="has changed since the plan was made"):
        outside_weights.publish(Store(tmp_path / "store"), [run])


def refused(made: dict[str, Any]) -> str:
    with pytest.raises(StudyError) as told:
        isoloss.plan(made)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_what_does_not_fit_is_told_before_anything_trains(folder: Path) -> None:
    other = study(folder)
    other["model"] = {**other["model"], "hidden_size": 32}
    said = refused(other)
    assert "model.embed_tokens.weight [8, 16] against [8, 32]" in said and "hidden_size 16 against 32" in said
    words = study(folder)
    words["data"] = {**words["data"], "vocabulary": 9}
    assert "a vocabulary of 8, the model 9" in refused(words)
    gpt = study(folder)
    gpt["model"] = {"family": "gpt", "width": 16, "depth": 1}
    assert "only a model of family transformers can begin with" in refused(gpt)
    tied = study(folder, head="reset")
    tied["model"] = {**tied["model"], "tie_word_embeddings": True}
    assert "init.head: found reset, but the model has no output head of its own" in refused(tied)
    images = {**STUDY, "data": {"source": "blobs"}}
    with pytest.raises(StudyError, match="found 'transformers', but blobs gives vectors"):
        isoloss.plan(images)


def test_another_tokenizer_is_told(folder: Path, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(["[UNK]", "a", "b", "c", "d", "e", "f", "g"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    (tmp_path / "text").mkdir()
    for i in range(8):
        (tmp_path / "text" / f"{i}.txt").write_text(f"a b c d e f g {i} " * 400)
    mine = study(folder)
    mine["data"] = {"source": "text", "path": str(tmp_path / "text"), "context": 8}
    mine["model"] = {**mine["model"], "vocab_size": 256}
    assert "has a tokenizer of its own, so one token id would mean two things" in refused(mine)
    mine["model"] = dict(STUDY["model"])
    mine["data"]["tokenizer"] = str(folder / "tokenizer.json")
    assert isoloss.plan(mine).shared.updates == 2 * 2 * 6
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert "rms_norm_eps 0.5 against 1e-06" in refused(mine)
