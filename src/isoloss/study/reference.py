"""The study file's reference, from the models that check it: ``python -m isoloss.study.reference``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from inspect import getdoc
from typing import Any

from isoloss.recipe import catalogue
from isoloss.recipe.units import BATCH, DURATION, SIZE
from isoloss.study.fields import REFERENCE, Section, allowed, writable
from isoloss.study.resolve import COOLDOWN_FRACTION
from isoloss.study.schema import (
    CONFIG,
    TUNABLE,
    Average,
    Baseline,
    Checkpoint,
    Data,
    Distance,
    Evaluation,
    Head,
    Init,
    LocalSGD,
    OwnShape,
    Parallel,
    PowerCooldown,
    Pretrain,
    Roughness,
    Run,
    Seeds,
    Training,
    Tuning,
)

_UNITS = {"duration": DURATION, "batch": BATCH, "size": SIZE}

_INTRODUCTION = f"""\
# The study file

One YAML 1.2 file describes a study: `4e-3` is a number, `on` is a word, a key may stand once. This page is
made by `python -m isoloss.study.reference` from the models that check the file; `studies/quickstart.yaml` in
the package is a complete example. Every mistake is told as
`file:line: path: what was found; what is allowed (did you mean ...?)`, before anything is trained.

Quantities have units. A bare number is a mistake where it could mean several things:

| kind | a number and one of |
| --- | --- |
| duration | {", ".join(DURATION)} |
| batch | {", ".join(BATCH)} |
| size | {", ".join(SIZE)} (KB = 1000 bytes, MB = 1000 KB) |

One's own code goes where `{REFERENCE}` is allowed. Its options are free, and `version` may stand
for its code in the keys of stored states; without it, the source file is hashed.
"""

_WHOLE = f"""\
## arms

Names with partial overrides of everything above, apart from `study`, `laws` and `holdout`. An arm is merged
key by key. Where it changes a name (`data.source`, `model.family`, `training.optimizer.name`,
`schedule.shape`, `average.kind`), the options of the old choice are dropped; of a data source, `context`,
`size` and `tokenizer` stay. Without `arms` there is one, called `base`.

## grid

Dotted paths with lists of values; every arm is run at every combination. A path must be a single value that
every arm has, and that no arm sets itself. Names may be swept too (`training.optimizer.name: [adamw, sgd]`).

Under `together`, paths that move together: a list of mappings with the same paths, each the values of one run, or
lists of values that are crossed within the mapping. All else in the grid is crossed with them.

```yaml
grid:
  together:
    - {{model.width: 32, model.depth: 2, duration: [400 updates, 800 updates]}}
    - {{model.width: 64, model.depth: 4, duration: [900 updates, 1800 updates]}}
  seed: [0, 1, 2]
```

## tune

One or several dotted paths with lists of candidates, the same for every arm; every combination is tried, so all arms
have the same budget, which is charged to each. A path is a single value that every arm has and no arm sets itself, in:
{textwrap.fill(", ".join(f"`{path}`" for path in TUNABLE), 118)}.

```yaml
tune:
  training.optimizer.lr: [2e-3, 4e-3, 8e-3]
  training.optimizer.weight_decay: [0.0, 0.1, 0.3]
  at: {{model.width: [32, 96], duration: 200 updates}}
```

The combination with the lowest loss on validation part A wins, by the mean over the seeds of a tuning point. `at` says
where: dotted paths with a value or a list of values. On an axis of the grid that `at` leaves out, tuning takes the
smallest seed, the shortest duration, and all values of any other or of what moves together.

At sizes that were not tuned, the learning rate goes by `between`; every other path takes the value of the nearest tuned
size (in log N). Where several tuning points stand for one run, it gets the geometric mean of their learning rates, and
of the rest the combination with the lowest loss over all of them. A winner at an end of its list is flagged, path by
path, unless nothing is allowed beyond (a weight decay of 0); lists with null, words or lists in them have no ends.

Tuning does not reach into `pretrain`: an earlier training has its own learning rate, warm-up, schedule and (where
given) batch, and of everything else in `training` the value that the study itself writes, or else the default, while
the runs that go on from it try the candidates. So it is trained once. A path in `pretrain` is the exception: each of
its candidates is another earlier training, and charged. Number format and compilation hold for a run as a whole, and
cannot be tuned where there is a `pretrain`.

`follow` names arms that are not tuned and take the values of another (`follow: {{linear: cooldown}}`): branches of one
trunk stay on that trunk, and the other's tuning is charged to them too.
"""

_BASELINE = """\
## baseline

The name of the arm that others are compared with, or a mapping; it may be left out where there is one arm.
Where `duration` is swept, the baseline alone gets one longer duration, so that the ranges of losses overlap.
"""

_KINDS = {f"a number and a unit ({', '.join(units)})": f"a {kind}" for kind, units in _UNITS.items()}


def reference() -> str:
    """The whole page, in Markdown."""
    return "\n".join([_INTRODUCTION, *_config(), _WHOLE, *_table(Tuning), _BASELINE, *_table(Baseline)])


def _config() -> Iterator[str]:
    yield "## The study\n"
    yield from _table(Head, Run)
    yield "`seed` may be a mapping, to tell three seeds apart:\n"
    yield from _table(Seeds)
    yield "## data\n"
    yield f"`source` is one of the names below, or `{REFERENCE}`. Beside it:\n"
    yield from _table(Data)
    yield from _entries("data", "source")
    yield "## model\n"
    yield f"`family` is one of the names below; one's own goes under `name: {REFERENCE}` instead.\n"
    yield from _entries("model", "family")
    yield "## training\n"
    yield from _table(Training)
    yield "## training.optimizer\n"
    yield f"`name` is one of the names below (default adamw), or `{REFERENCE}`.\n"
    yield from _entries("optimizer", "name")
    yield "## training.extrapolate\n"
    yield (
        "Null, or a mapping: the gradient is taken at an extrapolated point ([card](methods/extrapolation.md)). "
        "Switching it on or off\nbegins a phase, so arms share what comes before. `direction` is one of the names "
        "below (default local).\nAt one update, only one of extrapolate, sharpness and local_sgd may be on.\n"
    )
    yield from _entries("extrapolate", "direction")
    yield "## training.sharpness\n"
    yield "Null, or a mapping whose `method` is one of the names below (default sam).\n"
    yield from _entries("sharpness", "method")
    yield "## training.local_sgd\n"
    yield f"Null, or a mapping. {LocalSGD.__doc__}\n"
    yield from _table(LocalSGD)
    yield "## schedule\n"
    yield (
        f"`shape` is one of the names below (default constant), or `{REFERENCE}` for a form f(x) with "
        "f(0) = 1 and f(1) = 0, where x goes from 0 to 1.\n"
    )
    yield from _entries("schedule", "shape")
    yield f"### one's own\n\n`shape: {REFERENCE}`\n"
    yield from _table(OwnShape)
    yield "## schedule.cooldown\n"
    trunks = ", ".join(catalogue.names("schedule", "trunk"))
    decays = ", ".join(catalogue.names("schedule", "decay"))
    yield (
        f"Null, or a mapping after {trunks}.\n`shape` is one of {decays}\n(default one_minus_sqrt), or "
        f"`{REFERENCE}`. Of `fraction` and `length` one may be given; a fraction of\n"
        f"{COOLDOWN_FRACTION} if neither is. For exponential, `final` is above 0 and 0.1 by default; power has its "
        "`exponent` a.\n"
    )
    yield from _table(PowerCooldown)
    yield "## average\n"
    yield (
        "Null, or a mapping whose `kind` is one of the names below. An average only watches the training. For models "
        "with BatchNorm\nits running statistics are estimated from training batches, and that is charged to the arm. "
        "Beside `kind`:\n"
    )
    yield from _table(Average)
    yield from _entries("average", "kind")
    yield "## evaluation\n"
    yield from _table(Evaluation)
    yield (
        "Metrics are measured wherever the loss is, on the same samples; worth is decided by the loss alone. Built-in "
        "tasks have\nthese; one's own `task` may measure others ([metrics](images.md#metrics)).\n"
    )
    yield "\n".join(f"- `{name}`: {catalogue.get('metric', name).summary}" for name in catalogue.names("metric")) + "\n"
    yield f"### evaluation.distance\n\nNull, or a mapping. {Distance.__doc__}\n"
    yield from _table(Distance)
    yield f"### evaluation.roughness\n\nNull, or a mapping. {Roughness.__doc__}\n"
    yield from _table(Roughness)
    yield f"## init\n\nNull, or a mapping. {Init.__doc__}\n"
    yield from _table(Init)
    yield f"## pretrain\n\nNull, or a mapping. {Pretrain.__doc__}\n"
    yield (
        "`data` and `schedule` are as above, for the earlier training; its `data.context` is that of the run.\n"
        "All other settings are those of `training`; where they are tuned, those that the study writes beside `tune`.\n"
        "D and S of a run count what comes behind it.\n"
    )
    yield from _table(Pretrain)
    yield "## checkpoint\n"
    yield from _table(Checkpoint)
    yield f"## training.parallel\n\n{getdoc(Parallel)}\n"
    yield from _table(Parallel)


def _entries(kind: str, key: str) -> Iterator[str]:
    """Every name of a kind with its options; neighbours with the same options share one table."""
    node = {**CONFIG.children, **CONFIG.children["training"].children}[kind]
    assert node.choice is not None
    shared = node.choice.base.model_fields
    tables: list[tuple[list[str], str]] = []
    for name in node.choice.names:
        entry = catalogue.get(kind, name)
        model = node.choice.model(name)
        assert model is not None
        own = {option.name for option in entry.options}
        names = tuple(field for field in writable(model) if field in own or field not in shared)
        table = "\n".join(_table(model, only=names))
        if not (tables and table and tables[-1][1] == table):
            tables.append(([], table))
        tables[-1][0].append(f"- `{key}: {name}`: {entry.summary}")
    for lines, table in tables:
        yield "\n".join(lines) + "\n"
        if table:
            yield table


def _table(*models: type[Section], only: tuple[str, ...] | None = None) -> Iterator[str]:
    rows = []
    for model in models:
        for name in writable(model):
            if only is None or name in only:
                field = model.model_fields[name]
                default = "required" if field.is_required() else f"`{_shown(field.default)}`"
                words = allowed(model, name)
                for long, short in _KINDS.items():
                    words = words.replace(long, short)
                rows.append(f"| `{name}` | {words} | {default} | {field.description} |")
    if rows:
        yield "\n".join(["| key | allowed | default | meaning |", "| --- | --- | --- | --- |", *rows]) + "\n"


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value)


if __name__ == "__main__":
    print(reference(), end="")
