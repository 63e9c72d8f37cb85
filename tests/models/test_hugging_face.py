"""Causal language models of transformers: the same bits as there, counted, adapted, and read back from a folder."""

from __future__ import annotations

import copy
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from isoloss import models
from isoloss.models import build, decayed, describe, hugging_face, in_head, library_version, saved_weights
from isoloss.recipe.errors import StudyError

LLAMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
         "intermediate_size": 48}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4}
QWEN2 = {name: value for name, value in LLAMA.items() if name != "head_dim"}
EXPERTS = {**QWEN2, "num_local_experts": 4, "num_experts_per_tok": 2}
TYPES = {"llama": LLAMA, "qwen2": QWEN2, "gpt2": GPT2}
DATA = {"vocabulary": 40, "context": 12}


@pytest.fixture(autouse=True)
def transformers() -> Any:
    try:
        import transformers
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"transformers does not import here: {error}")
    return transformers


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def spec(kind: str, **options: Any) -> dict[str, Any]:
    return {"family": "transformers", "type": kind, **TYPES[kind], **options}


def theirs(transformers: Any, kind: str, seed: int = 0, **options: Any) -> Any:
    """The library's own model, written as its documentation does."""
    plain = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if kind == "gpt2" else {"attention_dropout": 0.0}
    positions = {"n_positions" if kind == "gpt2" else "max_position_embeddings": 12}
    config = transformers.AutoConfig.for_model(
        kind, **{**TYPES[kind], "vocab_size": 40, **positions, **plain, **options}
    )
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def tokens(seed: int = 1, length: int = 12) -> torch.Tensor:
    return torch.randint(40, (3, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", TYPES)
def test_it_is_the_librarys_model_to_the_bit(transformers: Any, kind: str, no_network: None) -> None:
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    made = build(spec(kind), seed=4, **DATA)
    assert torch.equal(torch.random.get_rng_state(), before)
    other = theirs(transformers, kind, seed=4)
    assert {n: p.shape for n, p in made.named_parameters()} == {n: p.shape for n, p in other.named_parameters()}
    for (name, a), (_, b) in zip(made.named_parameters(), other.named_parameters(), strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b), name
    made.train()
    other.train()
    assert torch.equal(made(tokens()), other(input_ids=tokens()).logits)  # no dropout, even in training
    again = build(spec(kind), seed=5, **DATA)
    assert not torch.equal(made(tokens()), again(tokens()))


@pytest.mark.parametrize("kind", TYPES)
def test_the_task_has_the_librarys_loss(transformers: Any, kind: str) -> None:
    from isoloss.train.tasks import LanguageModelling

    batch = tokens(length=12)
    total, count = LanguageModelling().loss(build(spec(kind), seed=4, **DATA), batch)
    wanted = theirs(transformers, kind, seed=4)(input_ids=batch, labels=batch).loss  # shifts by one itself
    assert count == 3 * 11
    torch.testing.assert_close(total / count, wanted, rtol=2e-7, atol=0)


def test_dropout_is_what_was_asked_for() -> None:
    made = build(spec("gpt2", resid_pdrop=0.5), seed=0, **DATA)
    made.train()
    assert made.config.embd_pdrop == made.config.attn_pdrop == 0 and made.config.resid_pdrop == 0.5
    assert not torch.equal(made(tokens()), made(tokens()))


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("llama", True), ("gpt2", True), ("gpt2", False)])
def test_facts(transformers: Any, kind: str, tied: bool) -> None:
    given = spec(kind, tie_word_embeddings=tied)
    facts = describe(given, **DATA)
    other = theirs(transformers, kind, tie_word_embeddings=tied).eval()
    sizes = {name: p.numel() for name, p in other.named_parameters()}
    assert facts.total == sum(sizes.values())
    assert facts.embedding == sum(n for name, n in sizes.items() if any(w in name for w in ("embed", "wte", "wpe")))
    assert facts.head == (0 if tied else 40 * 32)
    assert facts.scalars == sum(p.numel() for p in other.parameters() if p.ndim == 1)
    # The formula of the gpt family: every matrix once, attention in full, the head.
    closed = 2 * facts.matrices + 4 * 2 * 12 * 32 + 2 * 40 * 32
    assert facts.forward_flops_per_token == pytest.approx(closed, rel=0.01)
    with FlopCounterMode(display=False) as counter:
        loss = other(input_ids=tokens(), labels=tokens()).loss
        forward = counter.get_total_flops()
        loss.backward()
    assert facts.forward_flops_per_token == pytest.approx(forward / tokens().numel(), rel=0.01)
    assert facts.training_flops_per_token == pytest.approx(counter.get_total_flops() / tokens().numel(), rel=0.01)


def test_a_head_is_not_told_by_its_rows() -> None:
    """A feed-forward matrix with as many rows as the vocabulary is a matrix."""
    facts = describe(spec("llama", intermediate_size=40), **DATA)
    assert facts.head == 40 * 32 and facts.matrices == 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 40)


def test_experts_are_counted_where_they_are_used() -> None:
    facts = describe({"family": "transformers", "type": "mixtral", **EXPERTS}, **DATA)
    a_layer = 2 * 32 * 32 + 2 * 32 * 16 + 4 * 32 + 2 * 3 * 32 * 48
    closed = 2 * 2 * a_layer + 4 * 2 * 12 * 32 + 2 * 40 * 32
    assert facts.forward_flops_per_token == pytest.approx(closed, rel=0.01)
    assert facts.matrices == 2 * (a_layer + 2 * 3 * 32 * 48)


def test_what_decays_and_what_is_the_head() -> None:
    named = dict(build(spec("llama"), seed=0, **DATA).named_parameters())
    assert {n for n in named if in_head(n)} == {"lm_head.weight"}
    undecayed = {name for name, p in named.items() if not decayed(name, p)}
    assert undecayed == {n for n in named if "norm" in n or "embed" in n}
    assert decayed("embed_out.weight", torch.zeros(2, 2)) and in_head("embed_out.weight")


def test_attention_is_fixed_and_may_be_chosen() -> None:
    eager = build(spec("llama"), seed=0, **DATA)
    other = build(spec("llama", attn_implementation="sdpa"), seed=0, **DATA)
    assert (eager.config._attn_implementation, other.config._attn_implementation) == ("eager", "sdpa")
    torch.testing.assert_close(eager(tokens()), other(tokens()), rtol=0, atol=1e-6)


def test_positions_keep_their_precision_in_bfloat16(transformers: Any) -> None:
    made = build(spec("llama"), seed=0, **DATA)
    wanted = made.model.rotary_emb.inv_freq.clone()
    low = copy.deepcopy(made).to(torch.bfloat16)
    assert {p.dtype for p in low.parameters()} == {torch.bfloat16}
    assert low.model.rotary_emb.inv_freq.dtype == torch.float32 and torch.equal(low.model.rotary_emb.inv_freq, wanted)
    assert not torch.equal(wanted, wanted.bfloat16().float())  # they would have been rounded
    assert low(tokens()).isfinite().all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"type": "lama"}, r"model\.type: found 'lama'.*did you mean 'llama'"),
        ({"type": "bart"}, r"bart is an encoder and a decoder"),
        ({"type": "xlnet", "d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 32}, r"sees what it is to predict"),
        ({"hiden_size": 8}, r"llama takes no option 'hiden_size'; it takes: .*hidden_size.*did you mean 'hidden_size'"),
        ({"parametrisation": "mup"}, r"takes no option 'parametrisation'"),
        ({"vocab_size": 39}, r"model\.vocab_size: found 39; allowed: a whole number from 40, the vocabulary of data"),
        ({"max_position_embeddings": 8}, r"max_position_embeddings: found 8; allowed: .* from 12, data\.context"),
        ({"num_attention_heads": "four"}, r"transformers cannot make"),
    ],
)
def test_wrong_options_are_one_message(given: dict[str, Any], words: str) -> None:
    base = {} if given.get("type") == "xlnet" else LLAMA
    with pytest.raises(StudyError, match=words) as told:
        describe({"family": "transformers", "type": "llama", **base, **given}, **DATA)
    assert "\n" not in str(told.value)


def test_two_names_of_one_option() -> None:
    made = build(
        {"family": "transformers", "type": "gpt2", "hidden_size": 32, "n_layer": 1, "n_head": 2}, seed=0, **DATA
    )
    assert made.config.n_embd == 32
    with pytest.raises(StudyError, match="hidden_size and n_embd are two names"):
        build(spec("gpt2", hidden_size=64), seed=0, **DATA)


def test_the_version_stands_for_the_code(transformers: Any) -> None:
    assert library_version("transformers") == f"transformers {transformers.__version__}"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for use in (lambda: build(spec("gpt2"), seed=0, **DATA), lambda: library_version("transformers")):
        with pytest.raises(StudyError, match=r"needs the package transformers.*isoloss\[transformers\]"):
            use()


def test_it_is_imported_only_when_asked_for() -> None:
    code = (
        "import sys; from isoloss import models; import isoloss.plan.lower, isoloss.execute.run\n"
        "models.describe({'family': 'gpt', 'width': 16, 'depth': 1}, vocabulary=8, context=8)\n"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Saved models


def saved(transformers: Any, folder: Path, kind: str = "llama", dtype: Any = torch.float32, **options: Any) -> Any:
    shards = {"max_shard_size": options.pop("shards")} if "shards" in options else {}
    made = theirs(transformers, kind, seed=7, **options).to(dtype)
    made.save_pretrained(folder, safe_serialization=True, **shards)
    return made


@pytest.mark.parametrize("shards", [None, "10KB"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_saved_model_comes_back_to_the_bit(
    transformers: Any, tmp_path: Path, kind: str, dtype: Any, shards: str | None, no_network: None
) -> None:
    other = saved(transformers, tmp_path, kind, dtype, **({"shards": shards} if shards else {}))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shards
    assert (tmp_path / "model.safetensors.index.json").exists() == bool(shards)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    given = saved_weights(tmp_path, spec(kind), **DATA)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, value in other.state_dict().items():
        assert given[name].dtype == torch.float32 and torch.equal(given[name], value.float()), name
    made = build(spec(kind), seed=0, **DATA)
    made.load_state_dict(given)
    library = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, torch_dtype=torch.float32, attn_implementation="eager"
    )
    assert torch.equal(made(tokens()), library(input_ids=tokens()).logits)


def test_a_base_model_without_its_prefix_fits(transformers: Any, tmp_path: Path) -> None:
    other = theirs(transformers, "gpt2", seed=7)
    other.transformer.save_pretrained(tmp_path)
    assert "wte.weight" in load_file(tmp_path / "model.safetensors")
    given = saved_weights(tmp_path, spec("gpt2"), **DATA)
    for name, value in other.state_dict().items():
        assert torch.equal(given[name], value), name


def test_experts_saved_one_by_one_come_back(transformers: Any, tmp_path: Path) -> None:
    config = transformers.AutoConfig.for_model("mixtral", **EXPERTS, vocab_size=40, max_position_embeddings=12)
    other = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    other.save_pretrained(tmp_path)
    given = {"family": "transformers", "type": "mixtral", **EXPERTS}
    back = saved_weights(tmp_path, given, **DATA)
    assert all(torch.equal(back[name], value) for name, value in other.state_dict().items())


def test_the_content_is_addressed(transformers: Any, tmp_path: Path) -> None:
    saved(transformers, tmp_path / "a")
    saved(transformers, tmp_path / "b")
    assert models.saved_content(tmp_path / "a") == models.saved_content(tmp_path / "b")
    path = tmp_path / "b" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, path)
    assert models.saved_content(tmp_path / "a") != models.saved_content(tmp_path / "b")


def refused(folder: Path, given: dict[str, Any], **options: Any) -> str:
    with pytest.raises(StudyError) as told:
        saved_weights(folder, given, **{**DATA, **options})
    assert "\n" not in str(told.value)
    return str(told.value)


def test_another_architecture_is_listed(transformers: Any, tmp_path: Path) -> None:
    saved(transformers, tmp_path)
    said = refused(tmp_path, spec("llama", num_hidden_layers=3, intermediate_size=64))
    assert "model.layers.2.input_layernorm.weight" in said and "missing" in said
    assert "model.layers.0.mlp.down_proj.weight [32, 48] against [32, 64]" in said
    assert "intermediate_size 48 against 64" in said and "num_hidden_layers 2 against 3" in said
    said = refused(tmp_path, spec("llama", num_hidden_layers=1))
    assert "model.layers.1.input_layernorm.weight" in said and "and 3 more unexpected" in said
    # All tensors fit, and yet it would be another function.
    assert "rms_norm_eps 1e-06 against 0.001" in refused(tmp_path, spec("llama", rms_norm_eps=1e-3))
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}
    assert "num_attention_heads 4 against 8" in refused(tmp_path, spec("llama", **heads))
    assert "tie_word_embeddings False against True" in refused(tmp_path, spec("llama", tie_word_embeddings=True))
    assert "a model of type 'llama'; allowed: 'gpt2'" in refused(tmp_path, spec("gpt2"))
    assert "which only a model of family transformers" in refused(tmp_path, {"family": "gpt", "width": 16, "depth": 1})


def test_another_vocabulary_is_told(transformers: Any, tmp_path: Path) -> None:
    saved(transformers, tmp_path)
    assert "a vocabulary of 40, the model 41" in refused(tmp_path, spec("llama"), vocabulary=41)
    assert "model.vocab_size: 40" in refused(tmp_path, spec("llama"), vocabulary=30)
    assert len(saved_weights(tmp_path, spec("llama", vocab_size=40), vocabulary=30, context=12)) == 21


def test_a_shorter_context_fits_where_positions_are_turned(transformers: Any, tmp_path: Path) -> None:
    saved(transformers, tmp_path / "llama")
    assert saved_weights(tmp_path / "llama", spec("llama"), vocabulary=40, context=6)
    saved(transformers, tmp_path / "gpt2", "gpt2")
    assert "transformer.wpe.weight [12, 32] against [6, 32]" in refused(tmp_path / "gpt2", spec("gpt2"), context=6)
    assert saved_weights(tmp_path / "gpt2", spec("gpt2", n_positions=12), vocabulary=40, context=6)


def remove_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")


def widen(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].double()
    save_file(tensors, folder / "model.safetensors")


def index(names: dict[str, str]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))

    return change


def pickle_it(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (remove_tensor, "model.norm.weight missing"),
        (widen, "model.norm.weight in .* has type F64; allowed: F32, BF16, F16"),
        (pickle_it, r"pytorch_model\.bin is pickled, which is never read"),
        (index({"a": "../outside.safetensors"}), r"names \.\./outside\.safetensors, which is no safetensors file"),
        (index({"a": "pytorch_model.bin"}), "which is no safetensors file"),
        (index({"a": "model-00001-of-00001.safetensors"}), "missing there"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x07" * 40), "cannot be read as safetensors"),
        (lambda f: (f / "config.json").unlink(), r"config\.json cannot be read"),
        (lambda f: (f / "config.json").write_text("[1]"), r"is no JSON object"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "holds an adapter"),
    ],
)
def test_damage_is_one_message(
    transformers: Any, tmp_path: Path, change: Callable[[Path], None], words: str, no_network: None
) -> None:
    saved(transformers, tmp_path)
    change(tmp_path)
    with pytest.raises(StudyError, match=words):
        saved_weights(tmp_path, spec("llama"), **DATA)


def test_nothing_of_a_folder_is_executed(transformers: Any, tmp_path: Path) -> None:
    saved(transformers, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "theirs.Model", "AutoConfig": "theirs.Config"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    assert saved_weights(tmp_path, spec("llama"), **DATA)
    assert not (tmp_path / "ran").exists()


def test_a_head_of_another_size_is_left_out(transformers: Any, tmp_path: Path) -> None:
    saved(transformers, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    assert "lm_head.weight missing" in refused(tmp_path, spec("llama"))
    assert saved_weights(tmp_path, spec("llama"), head="reset", **DATA)


def test_the_library_says_nothing_and_stays_as_it_was(
    transformers: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved(transformers, tmp_path)
    log = transformers.utils.logging
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    capfd.readouterr()
    saved_weights(tmp_path, spec("llama"), **DATA)
    build(spec("llama"), seed=0, **DATA)
    assert capfd.readouterr() == ("", "")
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before
    assert hugging_face.FAMILY == "transformers"
