# ruff: noqa: E501 (a table: one mistake and its message a line)
"""Every mistake gives one message: where, what was found, what is allowed, the nearest valid name."""

from pathlib import Path

import pytest

from isoloss import study
from isoloss.recipe.errors import StudyError

NOTHING = ""

# (what stands in the file, what is put there, what the message must say)
TABLE = [
    # unknown keys
    ("depth: 2", "dept: 2", ["q.yaml:3: model.dept: found the unknown key 'dept' of gpt", "mlp_ratio", "did you mean 'depth'?"]),
    ("batch: 16", "batsh: 16", ["q.yaml:6: training.batsh:", "micro_batches", "did you mean 'batch'?"]),
    ("laws:", "law:", ["q.yaml:21: law: found an unknown key", "holdout", "did you mean 'laws'?"]),
    ("context: 64", "context: 64, path: x", ["q.yaml:2: data.path: found the unknown key 'path' of stdlib-code"]),
    ("final: 0.1", "finl: 0.1", ["q.yaml:18: arms.cosine.schedule.finl:", "of cosine", "did you mean 'final'?"]),
    ("{shape: cosine, final", "{shape: constant, final", ["q.yaml:18: arms.cosine.schedule.final: found the unknown key 'final' of constant"]),
    # names
    ("family: gpt", "family: gtp", ["q.yaml:3: model.family: found 'gtp'; allowed: gpt, mlp, f1, c1, resnet, lstm, transformers; name: package.module:attribute", "did you mean 'gpt'?"]),
    ("family: gpt", "name: gpt", ["q.yaml:3: model.name: found 'gpt'; allowed: package.module:attribute (did you mean 'family: gpt'?)"]),
    ("family: gpt", "family: a.b:C", ["q.yaml:3: model.family: found 'a.b:C'", "name: package.module:attribute"]),
    ("family: gpt", "family: gpt, name: a.b:C", ["q.yaml:3: model.name: found both family and name"]),
    ("name: adamw", "name: adam", ["q.yaml:5: training.optimizer.name: found 'adam'; allowed: adamw, sgd, lamb, lars, schedule_free_adamw, schedule_free_sgd, muon, package.module:attribute", "'adamw'?"]),
    ("source: stdlib-code", "source: stdlibcode", ["q.yaml:2: data.source: found 'stdlibcode'", "did you mean 'stdlib-code'?"]),
    ("source: stdlib-code, ", NOTHING, ["q.yaml:2: data.source: missing; allowed: stdlib-code"]),
    ("shape: one_minus_sqrt", "shape: inverse_sqrt", ["q.yaml:19: arms.cooldown.schedule.cooldown.shape: found 'inverse_sqrt'; allowed: linear, cosine"]),
    ("kind: window", "kind: windw", ["q.yaml:20: arms.averaged.average.kind: found 'windw'; allowed: window, ema, lawa (did you mean 'window'?)"]),
    ("kind: window, ", NOTHING, ["q.yaml:20: arms.averaged.average.kind: missing; allowed: window, ema, lawa"]),
    ("[chinchilla]", "[chinchila]", ["q.yaml:21: laws[0]: found 'chinchila'; allowed: one of chinchilla, power (did you mean 'chinchilla'?)"]),
    ("precision: fast", "task: clasification", ["q.yaml:8: training.task"]),
    ("study: demo", "study: demo\ntask: clasification", ["q.yaml:2: task: found 'clasification'", "did you mean 'classification'?"]),
    # types and YAML traps
    ("depth: 2", "depth: two", ["q.yaml:3: model.depth: found 'two'; allowed: a whole number from 1 to 1024"]),
    ("depth: 2", "depth: 2.5", ["model.depth: found 2.5; allowed: a whole number"]),
    ("depth: 2", "depth: true", ["model.depth: found true; allowed: a whole number"]),
    ("depth: 2", "depth: [2]", ["model.depth: found [2]; allowed: a whole number"]),
    ("depth: 2", "depth: null", ["q.yaml:3: model.depth: found null; allowed: a whole number"]),
    ("precision: fast", "compile: yes", ["q.yaml:8: training.compile: found 'yes'; allowed: true or false"]),
    ("precision: fast", "precision: on", ["training.precision: found 'on'; allowed: one of fp32, bf16-autocast"]),
    ("precision: fast", "precision: fp23", ["found 'fp23'", "did you mean 'fp32'?"]),
    ("weight_decay: 0.1", "weight_decay: '4e-3'", ["q.yaml:5: training.optimizer.weight_decay: found '4e-3'; allowed: a number from 0 to 10"]),
    ("betas: [0.9, 0.95]", "betas: 0.9", ["training.optimizer.betas: found 0.9; allowed: a list of 2 values"]),
    ("betas: [0.9, 0.95]", "betas: [0.9]", ["training.optimizer.betas: found [0.9]; allowed: a list of 2 values"]),
    ("betas: [0.9, 0.95]", "betas: [0.9, x]", ["training.optimizer.betas[1]: found 'x'; allowed: a number from 0 and below 1"]),
    ("[chinchilla]", "chinchilla", ["q.yaml:21: laws: found 'chinchilla'; allowed: a list, each one of"]),
    ("study: demo", "study: 5", ["q.yaml:1: study: found 5; allowed: text"]),
    ("study: demo\n", NOTHING, ["study: missing; allowed: text"]),
    ("model: {family: gpt, depth: 2, head_size: 8}", "model: gpt", ["q.yaml:3: model: found 'gpt'; allowed: a mapping with family"]),
    ("{shape: cosine, final: 0.1}", "cosine", ["q.yaml:18: arms.cosine.schedule: found 'cosine'; allowed: a mapping with shape"]),
    ("{shape: cosine, final: 0.1}", "null", ["q.yaml:18: arms.cosine.schedule: found null; allowed: a mapping with shape"]),
    # ranges
    ("depth: 2", "depth: 0", ["model.depth: found 0; allowed: a whole number from 1 to 1024"]),
    ("final: 0.1", "final: 2", ["q.yaml:18: arms.cosine.schedule.final: found 2; allowed: a number from 0 to 1"]),
    ("final: 0.1", "final: .nan", ["arms.cosine.schedule.final: found nan; allowed: a number from 0 to 1"]),
    ("shape: cosine, final: 0.1", "shape: exponential, final: 0", ["found 0; allowed: a number above 0 and up to 1"]),
    ("shape: one_minus_sqrt", "final: 0, shape: exponential", ["arms.cooldown.schedule.cooldown.final: found 0; allowed: a number above 0"]),
    ("betas: [0.9, 0.95]", "betas: [0.9, 1.0]", ["q.yaml:5: training.optimizer.betas[1]: found 1.0; allowed: a number from 0 and below 1"]),
    ("[4e-3", "[0", ["q.yaml:14: tune.training.optimizer.lr[0]: found 0; allowed: a number above 0 and up to 100"]),
    ("[0, 1, 2]", "[0, -1]", ["q.yaml:12: grid.seed[1]: found -1; allowed: a whole number from 0"]),
    ("fraction: 0.2", "fraction: 1.2", ["q.yaml:19: arms.cooldown.schedule.cooldown.fraction: found 1.2; allowed: a number above 0"]),
    # quantities
    ("batch: 16 sequences", "batch: 16", ["q.yaml:6: training.batch: found 16 without a unit; allowed: a number and a unit (sequences, samples, tokens) (did you mean '16 sequences'?)"]),
    ("batch: 16 sequences", "batch: 16 seqs", ["found unit 'seqs'", "did you mean 'sequences'?"]),
    ("batch: 16 sequences", "batch: 0 sequences", ["found '0 sequences'; allowed: more than 0"]),
    ("batch: 16 sequences", "batch: [16]", ["training.batch: found [16]; allowed: a number and a unit"]),
    ("  batch: 16 sequences\n", NOTHING, ["q.yaml:4: training.batch: missing; allowed: a number and a unit"]),
    ("[400 updates", "[400", ["q.yaml:11: grid.duration[0]: found 400 without a unit", "did you mean '400 updates'?"]),
    ("[400 updates", "[400 steps", ["q.yaml:11: grid.duration[0]: found unit 'steps'", "did you mean 'updates'?"]),
    ("[400 updates", "[400 tokens", ["q.yaml:11: grid.duration: found several units"]),
    ("[400 updates", "[0 updates", ["grid.duration[0]: found '0 updates'; allowed: more than 0 updates"]),
    ("warmup: 20 updates", "warmup: 20", ["q.yaml:7: training.warmup: found 20 without a unit"]),
    ("context: 64", "context: 64, size: 10", ["q.yaml:2: data.size: found 10 without a unit", "KB, MB", "did you mean '10 tokens'?"]),
    # grid
    ("model.width: [16, 24, 32, 48]", "model.widht: [16]", ["q.yaml:10: grid.model.widht: found 'model.widht', which does not exist; allowed in model: family, width", "did you mean 'model.width'?"]),
    ("model.width: [16, 24, 32, 48]", "model: [16]", ["q.yaml:10: grid.model: found 'model', which is a mapping; allowed: a single value in it: family, width"]),
    ("model.width: [16, 24, 32, 48]", "training.lr: [1]", ["q.yaml:10: grid.training.lr:", "did you mean 'training.optimizer.lr'?"]),
    ("model.width: [16, 24, 32, 48]", "model: {width: [16]}", ["q.yaml:10: grid.model: found a mapping with width; allowed: a list of values (did you mean 'model.width'?)"]),
    ("model.width: [16, 24, 32, 48]", "model.width: 16", ["q.yaml:10: grid.model.width: found 16; allowed: a list of values"]),
    ("model.width: [16, 24, 32, 48]", "model.width: []", ["q.yaml:10: grid.model.width: found an empty list, a study of zero runs"]),
    ("model.width: [16, 24, 32, 48]", "model.width: [16, 16.0, 48]", ["q.yaml:10: grid.model.width[1]: found 16.0 again"]),
    ("model.width: [16, 24, 32, 48]", "model.width: [16, 20, 48]", ["q.yaml:10: grid.model.width[1]: found 20; allowed: a multiple of head_size 8 (nearest: 16, 24)"]),
    ("[400 updates, 800 updates", "[400 updates, 4e2 updates", ["grid.duration[1]: found '4e2 updates' again"]),
    ("[0, 1, 2]", "[0]\n  study: [a, b]", ["q.yaml:13: grid.study: found 'study', which does not exist"]),
    ("[0, 1, 2]", "[0]\n  seed.init: [0, 1]", ["q.yaml:13: grid.seed.init: found a value that grid.seed sets too"]),
    ("[0, 1, 2]", "[0]\n  training.optimizer.lr: [1e-3]", ["tune.training.optimizer.lr: found a value that grid.training.optimizer.lr sets too"]),
    ("[0, 1, 2]", "[0]\n  schedule.cooldown.fraction: [0.1]", ["q.yaml:20: arms.cooldown.schedule.cooldown.fraction: found a value that grid sweeps"]),
    ("[0, 1, 2]", "[0]\n  schedule.cooldown.length: [9 updates]", ["q.yaml:13: grid.schedule.cooldown.length:", "schedule.cooldown is null; allowed: what is there (in arm 'cosine'; every arm must have it)"]),
    ("[0, 1, 2]", "[0]\n  checkpoint.every: [9 updates]", ["q.yaml:13: grid.checkpoint.every: found a value that decides no result"]),
    ("[0, 1, 2]", "[0]\n  training.optimizer.name: [adamw, lion]", ["q.yaml:13: grid.training.optimizer.name[1]: found 'lion'; allowed: adamw, sgd, lamb, lars"]),
    ("[0, 1, 2]", f"{list(range(5000))}", ["q.yaml:9: grid: found 180000 runs (3 arms times the grid); allowed: at most"]),
    # arms
    ("cosine: {schedule: {shape", "cosine: {schedul: {shape", ["q.yaml:18: arms.cosine.schedul: found a key that does not exist; allowed in an arm: data, model", "did you mean 'schedule'?"]),
    ("cosine: {schedule: {shape: cosine, final: 0.1}}", "cosine: {laws: []}", ["q.yaml:18: arms.cosine.laws: found a key that belongs to the whole study"]),
    ("cosine: {schedule: {shape: cosine, final: 0.1}}", "cosine: {training: {lr: 1}}", ["q.yaml:18: arms.cosine.training.lr: found the unknown key 'lr'"]),
    ("cosine: {schedule: {shape: cosine, final: 0.1}}", "cosine: {training: {optimizer: {lr: 1}}}", ["q.yaml:18: arms.cosine.training.optimizer.lr: found a value that tune tunes"]),
    ("cosine: {schedule: {shape: cosine, final: 0.1}}", "cosine: {model: {width: 8}}", ["q.yaml:18: arms.cosine.model.width: found a value that grid sweeps"]),
    ("cosine: {schedule: {shape: cosine, final: 0.1}}", "cosine: [1]", ["q.yaml:18: arms.cosine: found [1]; allowed: a mapping that overrides the rest"]),
    ("  cosine: {", "  a/b: {", ["q.yaml:18: arms.a/b: found the name 'a/b'; allowed: letters, digits"]),
    ("{schedule: {shape: constant}, average: {kind: window, length: 100 updates}}", "{schedule: {shape: cosine, final: 0.1}}", ["q.yaml:20: arms.averaged: found the same runs as in arm 'cosine'; allowed: arms that differ"]),
    ("schedule: {shape: cosine, final: 0.1}", "training: {optimizer: {name: sgd, betas: [0, 0]}}", ["q.yaml:18: arms.cosine.training.optimizer.betas: found the unknown key 'betas' of sgd"]),
    # baseline
    ("baseline: cosine", "baseline: cosin", ["q.yaml:16: baseline: found 'cosin'; allowed: cosine, cooldown, averaged (did you mean 'cosine'?)"]),
    ("baseline: cosine\n", NOTHING, ["baseline: missing; allowed: cosine, cooldown, averaged"]),
    ("baseline: cosine", "baseline: {arm: cosin}", ["q.yaml:16: baseline.arm: found 'cosin'", "did you mean 'cosine'?"]),
    ("baseline: cosine", "baseline: [cosine]", ["q.yaml:16: baseline: found ['cosine']; allowed: cosine"]),
    ("baseline: cosine", "baseline: {arm: cosine, extra: 1600 updates}", ["q.yaml:16: baseline.extra: found 1600 updates; allowed: none, or more than 1600 updates"]),
    ("baseline: cosine", "baseline: {arm: cosine, extra: 9 epochs}", ["baseline.extra: found 9 epochs; allowed: none, or more than 1600 updates"]),
    ("baseline: cosine", "baseline: {arm: cosine, extra: 3200}", ["baseline.extra: found 3200 without a unit"]),
    # tuning
    ("{model.width: [16, 48]", "{model.widht: [16, 48]", ["q.yaml:15: tune.at.model.widht: found 'model.widht'; allowed: paths of grid: model.width, duration, seed (did you mean 'model.width'?)"]),
    ("{model.width: [16, 48]", "{model.width: [16, 40]", ["q.yaml:15: tune.at.model.width: found [16, 40]; allowed: values of grid.model.width: 16, 24, 32, 48"]),
    ("at: {model.width: [16, 48], duration: 400 updates}", "at: [16]", ["q.yaml:15: tune.at: found [16]; allowed: dotted paths"]),
    ("duration: 400 updates}", "duration: []}", ["q.yaml:15: tune.at.duration: found an empty list"]),
    ("duration: 400 updates}", "duration: 400}", ["q.yaml:15: tune.at.duration[0]: found 400 without a unit"]),
    ("[4e-3, 8e-3, 16e-3]", "4e-3", ["q.yaml:14: tune.training.optimizer.lr: found 0.004; allowed: a list of values"]),
    ("[4e-3, 8e-3, 16e-3]", "[4e-3, 0.004]", ["tune.training.optimizer.lr[1]: found 0.004 again"]),
    ("training.optimizer.lr: [4e-3", "training.optimizer.rl: [4e-3", ["q.yaml:14: tune.training.optimizer.rl:", "does not exist", "did you mean 'training.optimizer.lr'?"]),
    ("training.optimizer.lr: [4e-3, 8e-3, 16e-3]", "training.optimizer.name: [adamw, sgd]", ["q.yaml:14: tune.training.optimizer.name:", "a value, not a name"]),
    ("training.optimizer.lr: [4e-3, 8e-3, 16e-3]", "evaluation.tokens: [1, 2]", ["q.yaml:14: tune.evaluation.tokens:", "in training, schedule, average, data.crop"]),
    ("  training.optimizer.lr: [4e-3, 8e-3, 16e-3]\n", NOTHING, ["tune: found no path to tune"]),
    ("tune:\n  training.optimizer.lr: [4e-3, 8e-3, 16e-3]", "tune:\n  between: linear\n  training.optimizer.lr: [4e-3]", ["q.yaml:14: tune.between: found 'linear'; allowed: one of nearest, loglinear", "did you mean 'loglinear'?"]),
    ("tune:\n  training.optimizer.lr: [4e-3, 8e-3, 16e-3]\n", "training2: 1\nfoo:\n  lr: 1\n", ["q.yaml:13: training2: found an unknown key", "q.yaml:14: foo:", "did you mean 'training'?"]),
    # metrics
    ("study: demo", "study: demo\nevaluation:\n  metrics:\n  - ece\n  - acuracy", ["q.yaml:5: evaluation.metrics[1]: found 'acuracy'; allowed: accuracy, ece, rms_calibration_error, brier, auroc (did you mean 'accuracy'?)"]),
    ("study: demo", "study: demo\nevaluation: {metrics: [f1]}", ["q.yaml:2: evaluation.metrics[0]: found 'f1'; allowed: accuracy, ece"]),
    ("study: demo", "study: demo\nevaluation: {metrics: [loss]}", ["q.yaml:2: evaluation.metrics[0]: found 'loss', which is always measured; allowed: accuracy, ece"]),
    ("study: demo", "study: demo\nevaluation: {metrics: ['a@b']}", ["q.yaml:2: evaluation.metrics[0]: found 'a@b'; allowed: accuracy, ece"]),
    ("study: demo", "study: demo\ntask: a.b:C\nevaluation: {metrics: [status]}", ["q.yaml:3: evaluation.metrics[0]: found 'status'; allowed: accuracy, ece"]),
    ("study: demo", "study: demo\nevaluation: {metrics: [ece, ece]}", ["q.yaml:2: evaluation.metrics: found 'ece' twice; allowed: each once"]),
    ("study: demo", "study: demo\nevaluation: {metrics: accuracy}", ["q.yaml:2: evaluation.metrics: found 'accuracy'; allowed: a list, each one of accuracy, ece"]),
    ("length: 100 updates", "length: 100 updates, refresh: 0", ["q.yaml:20: arms.averaged.average.refresh: found 0; allowed: a whole number from 1 to 1000000"]),
    # what must agree
    (", context: 64", NOTHING, ["q.yaml:2: data.context: missing; allowed: a whole number of tokens a sequence"]),
    ("source: stdlib-code", "source: blobs", ["data.context: found 64, but blobs has vectors; allowed: null", "model.family: found 'gpt', but blobs gives vectors; allowed with vectors: mlp"]),
    ("study: demo", "study: demo\ntask: classification", ["q.yaml:2: task: found 'classification', but stdlib-code gives tokens"]),
    ("study: demo", "study: demo\nevaluation: {samples: 5}", ["q.yaml:2: evaluation.samples: found 5, but stdlib-code gives tokens; allowed: tokens"]),
    ("warmup: 20 updates", "warmup: 600 updates", ["q.yaml:7: training.warmup: found 600 updates in a run of 400 updates; allowed: at most its length"]),
    ("warmup: 20 updates", "warmup: 1e6 tokens", ["training.warmup: found 1000000 tokens in a run of 400 updates"]),
    ("fraction: 0.2", "length: 500 updates", ["q.yaml:19: arms.cooldown.schedule.cooldown.length: found 500 updates in a run of 400 updates; allowed: at most its length"]),
    ("fraction: 0.2", "fraction: 0.96", ["arms.cooldown.schedule.cooldown.fraction: found 0.96 of the run after a warm-up of 20 updates in a run of 400 updates"]),
    ("fraction: 0.2", "length: 390 updates", ["found 390 updates after a warm-up of 20 updates in a run of 400 updates"]),
    ("fraction: 0.2", "fraction: 0.2, length: 9 updates", ["schedule.cooldown.length: found both fraction and length"]),
    ("shape: constant, cooldown", "shape: cosine, cooldown", ["arms.cooldown.schedule.cooldown: found one after 'cosine', which decays already; allowed after: constant, steps"]),
    ("final: 0.1", "final: 0.1, horizon: 900 updates", ["arms.cosine.schedule.horizon: found 900 updates in a run of 1600 updates; allowed: at least its length"]),
    ("length: 100 updates", "length: 401 updates", ["q.yaml:20: arms.averaged.average.length: found 401 updates in a run of 400 updates"]),
    ("length: 100 updates", "length: 100 updates, every: 30 updates", ["arms.averaged.average.every: found 30 updates; allowed: a divisor of the length of 100 updates"]),
    ("batch: 16 sequences", "batch: 16 sequences\n  micro_batches: 3", ["q.yaml:7: training.micro_batches: found 3; allowed: a divisor of the batch of 16 sequences"]),
    ("batch: 16 sequences", "batch: 100 tokens", ["q.yaml:6: training.batch: found 100 tokens; allowed: a multiple of the context of 64 tokens"]),
    ("head_size: 8", "head_size: 7", ["q.yaml:3: model.head_size: found 7; allowed: an even number"]),
    ("{shape: cosine, final: 0.1}", "{shape: steps, drops: [{at: 5 updates, factor: 2}]}", ["arms.cosine.schedule.drops: found", "factor: number in (0, 1]"]),
    ("{shape: cosine, final: 0.1}", "{shape: steps, drops: [{at: 5, factor: 0.5}]}", ["arms.cosine.schedule.drops: found 5 without a unit"]),
    ("{name: adamw, betas: [0.9, 0.95], weight_decay: 0.1}", "{name: sgd, momentum: 0}", ["training.optimizer.nesterov: found true with momentum 0"]),
]  # fmt: skip


def message(text: str) -> str:
    with pytest.raises(StudyError) as caught:
        study.loads(text, "q.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("stands", "put", "fragments"), TABLE, ids=[f"{i}-{put[:30]!r}" for i, (_, put, _) in enumerate(TABLE)]
)
def test_message(text: str, stands: str, put: str, fragments: list[str]) -> None:
    assert text.count(stands) >= 1
    told = message(text.replace(stands, put, 1))
    for fragment in fragments:
        assert fragment in told
    for line in told.splitlines():
        assert line.startswith("q.yaml:") and ("allowed" in line or "does not exist" in line)


def test_what_is_wrong_in_one_arm_names_it(text: str) -> None:
    changed = text.replace("  warmup: 20 updates\n", "").replace("shape: cosine, final: 0.1", "shape: inverse_sqrt")
    assert message(changed) == (
        "q.yaml:4: training.warmup: found 0 updates with shape 'inverse_sqrt', which starts from it; "
        "allowed: more than 0 (arm 'cosine')"
    )


def test_several_mistakes_one_a_line(text: str) -> None:
    told = message(
        text.replace("depth: 2", "depth: 0").replace("seed: [0", "seed: [-1").replace("final: 0.1", "final: 3")
    )
    assert [line.split(":")[1] for line in told.splitlines()] == ["3", "12", "18"]
    told = message(text.replace("seed: [0", "seed: [-1").replace("[16,", "[0,"))
    assert [line.split(":")[1] for line in told.splitlines()] == ["10", "12"]


def test_a_mistyped_path_is_the_only_mistake(text: str) -> None:
    assert "\n" not in message(text.replace("model.width: [16, 24", "model.widht: [16, 24"))


def test_many_mistakes_are_cut(text: str) -> None:
    arms = "".join(f"  a{i}: {{model: {{depth: -{i}}}}}\n" for i in range(1, 41))
    told = message(text.replace("arms:\n", "arms:\n" + arms))
    assert told.splitlines()[-1] == "... and 20 more"


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ("", ["q.yaml: found nothing in it; allowed: a mapping with study, data, model"]),
        ("# only a comment\n", ["q.yaml: found nothing in it"]),
        ("{}", ["q.yaml:1: found nothing in it"]),
        ("- a\n- b", ["q.yaml:1: found ['a', 'b']; allowed: a mapping with study, data"]),
        ("hello", ["q.yaml:1: found 'hello'; allowed: a mapping"]),
        ("study: x\ngrid: {}\narms: {}", ["grid: found an empty mapping", "arms: found an empty mapping, a study of zero runs"]),
        ("study: x\narms:", ["arms: found null, a study of zero runs"]),
        ("study: x", ["data.source: missing", "model.width: missing", "training.batch: missing", "duration: missing", "training.optimizer.lr: missing"]),
    ],
)  # fmt: skip
def test_whole_files(content: str, fragments: list[str]) -> None:
    told = message(content)
    for fragment in fragments:
        assert fragment in told


def test_missing_in_some_arms_is_told_there(text: str) -> None:
    told = message(text.replace("cosine: {schedule", "cosine: {model: {family: mlp}, schedule"))
    assert "q.yaml:18: arms.cosine.model.depth: missing; allowed: a whole number from 1 to 1024" in told


def test_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "quick.yaml").write_text(text)
    with pytest.raises(StudyError, match=r"quik\.yaml: found no such file; .*did you mean 'quick\.yaml'\?"):
        study.load(tmp_path / "quik.yaml")
    with pytest.raises(StudyError, match="found a folder"):
        study.load(tmp_path)
    with pytest.raises(StudyError, match="cannot be read"):
        study.load("a\0b")
    (tmp_path / "latin.yaml").write_bytes("study: x\n# \xe4".encode("latin-1"))
    with pytest.raises(StudyError, match=r"latin\.yaml:2: found byte 0xe4 at 11; allowed: text in UTF-8"):
        study.load(tmp_path / "latin.yaml")
    (tmp_path / "wide.yaml").write_bytes(text.encode("utf-16"))
    with pytest.raises(StudyError, match=r"wide\.yaml:1: found byte 0xff"):
        study.load(tmp_path / "wide.yaml")


def test_dict_messages_name_the_study() -> None:
    with pytest.raises(StudyError, match=r"^study: model\.dept: found the unknown key 'dept' of gpt"):
        study.from_dict({"study": "x", "model": {"dept": 1}})
    with pytest.raises(StudyError, match=r"^study: model: found a object; allowed: mappings"):
        study.from_dict({"model": object()})
    with pytest.raises(StudyError, match=r"^study: found \[\]|^study: found nothing"):
        study.from_dict([])  # type: ignore[arg-type]
