"""How updates are made: optimizers, and what wraps them."""

from __future__ import annotations

from isoloss.recipe.entry import REQUIRED, Entry, Option

_LR = Option("lr", "number", REQUIRED, 0, 100, open_low=True, summary="peak learning rate")
_EPS = Option("eps", "number", 1e-8, 0, 1, open_low=True, summary="added to the root of the second moment")
_MOMENTUM = Option("momentum", "number", 0.9, 0, 1, open_high=True, summary="decay of the velocity")
_COUPLED_DECAY = Option("weight_decay", "number", 0.0, 0, 10, summary="added to the gradient, times the weights")
_BEGIN = Option("begin", "duration", None, summary="where it is switched on; null: at the run's start")
_END = Option("end", "duration", None, summary="where it is switched off; null: not before the run's end")
_INTERVAL = Option("interval", "integer", 1, 1, 1_000_000, summary="only every so many updates; the others are plain")
_SIZE = (
    Option("size", "number", 1.0, 0, 1e6, open_low=True, summary="how far to extrapolate"),
    Option(
        "scale",
        "word",
        "lr",
        choices=("lr", "fixed"),
        summary="size in learning rates, so that it decays with them, or as a fixed factor",
    ),
)
_SWITCHES = (_BEGIN, _END)
_WEIGHTS = (
    Option("r", "number", 0.0, 0, 100, summary="weight of update t in the average: t^r ..."),
    Option(
        "weight_lr_power", "number", 2.0, 0, 100, summary="... times the highest learning rate so far to this power"
    ),
    Option(
        "refresh",
        "integer",
        32,
        1,
        1_000_000,
        summary="training batches that estimate running statistics (BatchNorm) of the average anew",
    ),
)
_NESTEROV = Option(
    "nesterov",
    "boolean",
    False,
    summary="also look ahead along the momentum; needs sgd with momentum and without its own nesterov",
)
_FRESH = (
    *_SIZE,
    Option("share", "number", 1.0, 0, 1, open_low=True, summary="part of the samples for the first gradient"),
    _INTERVAL,
    _NESTEROV,
    *_SWITCHES,
)
_PAST = (*_SIZE, _NESTEROV, *_SWITCHES)


def _sharpness(name: str, summary: str, *own: Option) -> Entry:
    direction = Option(
        "direction",
        "word",
        "gradient",
        choices=("gradient", "local"),
        summary="go up along the batch's gradient, or each micro-batch along its own",
    )
    target = f"isoloss.methods.extrapolation:{name}"
    return Entry(name, "sharpness", summary, target, 1, (*own, direction, _INTERVAL, *_SWITCHES))


def _extrapolate(name: str, summary: str, options: tuple[Option, ...]) -> Entry:
    return Entry(name, "extrapolate", summary, "isoloss.methods.extrapolation:Extrapolation", 1, options)


ENTRIES = (
    Entry(
        "adamw",
        "optimizer",
        "Adam with decoupled weight decay (Loshchilov and Hutter 2019)",
        "torch.optim:AdamW",
        1,
        (
            _LR,
            Option(
                "betas",
                "pair",
                (0.9, 0.95),
                0,
                1,
                open_high=True,
                summary="decay of the first and second moment",
            ),
            _EPS,
            Option(
                "weight_decay",
                "number",
                0.1,
                0,
                10,
                summary="decoupled weight decay, times the learning rate",
            ),
        ),
        ("adam",),
    ),
    Entry(
        "sgd",
        "optimizer",
        "stochastic gradient descent with momentum (Sutskever et al. 2013)",
        "torch.optim:SGD",
        1,
        (
            _LR,
            _MOMENTUM,
            Option("nesterov", "boolean", True, summary="look ahead along the velocity; needs momentum above 0"),
            _COUPLED_DECAY,
        ),
        ("sgd",),
    ),
    Entry(
        "lamb",
        "optimizer",
        "Adam with a trust ratio for every tensor (You et al. 2020)",
        "isoloss.methods.lamb:LAMB",
        1,
        (
            _LR,
            Option("betas", "pair", (0.9, 0.999), 0, 1, open_high=True, summary="decay of the first and second moment"),
            Option("eps", "number", 1e-6, 0, 1, open_low=True, summary="added to the root of the second moment"),
            Option("weight_decay", "number", 0.01, 0, 10, summary="times the weights, inside the trust ratio"),
            Option(
                "variant",
                "word",
                "paper",
                choices=("paper", "nvlamb", "lambc", "pytorch-lamb"),
                summary="rule in use: docs/methods/lamb.md",
            ),
        ),
    ),
    Entry(
        "lars",
        "optimizer",
        "SGD with a trust ratio for every tensor (You et al. 2017)",
        "isoloss.methods.lars:LARS",
        1,
        (
            _LR,
            _MOMENTUM,
            _COUPLED_DECAY,
            Option("coefficient", "number", 0.001, 0, 10, open_low=True, summary="trust in a tensor's own size"),
            Option("nesterov", "boolean", False, summary="look ahead along the velocity; needs momentum above 0"),
            Option(
                "variant",
                "word",
                "original",
                choices=("original", "larc", "lamb-paper"),
                summary="rule in use: docs/methods/lars.md",
            ),
        ),
    ),
    Entry(
        "schedule_free_adamw",
        "optimizer",
        "AdamW without a schedule, evaluated at its own average (Defazio et al. 2024)",
        "isoloss.methods.schedule_free:ScheduleFreeAdamW",
        1,
        (
            _LR,
            Option(
                "betas",
                "pair",
                (0.9, 0.999),
                0,
                1,
                open_high=True,
                summary="interpolation between z and the average, decay of the second moment",
            ),
            _EPS,
            Option("weight_decay", "number", 0.1, 0, 10, summary="at y, times the learning rate"),
            *_WEIGHTS,
        ),
        ("adam", "averaging"),
    ),
    Entry(
        "schedule_free_sgd",
        "optimizer",
        "SGD without a schedule, evaluated at its own average (Defazio et al. 2024)",
        "isoloss.methods.schedule_free:ScheduleFreeSGD",
        1,
        (
            _LR,
            Option("momentum", "number", 0.9, 0, 1, open_high=True, summary="interpolation between z and the average"),
            Option("weight_decay", "number", 0.0, 0, 10, summary="at y, times the learning rate"),
            *_WEIGHTS,
        ),
        ("sgd", "averaging"),
    ),
    Entry(
        "muon",
        "optimizer",
        "orthogonal steps for hidden matrices, AdamW for the rest (Jordan et al. 2024)",
        "isoloss.methods.muon:MuonAdamW",
        1,
        (
            _LR,
            Option("momentum", "number", 0.95, 0, 1, open_high=True, summary="decay of the momentum of matrices"),
            Option("nesterov", "boolean", True, summary="look ahead along the momentum"),
            Option("weight_decay", "number", 0.0, 0, 10, summary="decoupled, times each part's own learning rate"),
            Option("ns_steps", "integer", 5, 1, 99, summary="Newton-Schulz steps"),
            Option(
                "adjust_lr",
                "word",
                "original",
                choices=("original", "match_rms_adamw"),
                summary="scale of a matrix's step: sqrt(max(1, rows / columns)), or as large as AdamW's",
            ),
            Option(
                "adamw_ratio", "number", 0.015, 0, 1_000, open_low=True, summary="AdamW's learning rate over Muon's"
            ),
            Option("betas", "pair", (0.9, 0.95), 0, 1, open_high=True, summary="AdamW's, for the rest"),
            Option("eps", "number", 1e-8, 0, 1, open_low=True, summary="AdamW's, for the rest"),
        ),
    ),
    _extrapolate("local", "local extragradient (Lin et al. 2020): each micro-batch along its own gradient", _FRESH),
    _extrapolate("gradient", "extragradient (Korpelevich 1976): along the batch's gradient", _FRESH),
    _extrapolate("past", "optimistic (Popov 1980): each micro-batch along its gradient of the update before", _PAST),
    _extrapolate("past-mean", "optimistic, along the batch's gradient of the update before", _PAST),
    _extrapolate(
        "noise",
        "random smoothing",
        (
            *_SIZE,
            Option("noise", "word", "gaussian", choices=("gaussian", "uniform"), summary="its distribution"),
            Option("per_filter", "boolean", False, summary="scaled to the norm of every filter"),
            _NESTEROV,
            *_SWITCHES,
        ),
    ),
    _sharpness(
        "sam",
        "sharpness-aware minimisation (Foret et al. 2021)",
        Option("rho", "number", 0.05, 0, 100, open_low=True, summary="distance of the step up"),
    ),
    _sharpness(
        "asam",
        "adaptive sharpness-aware minimisation (Kwon et al. 2021)",
        Option("rho", "number", 0.5, 0, 100, open_low=True, summary="distance of the step up, in weights"),
        Option("eta", "number", 0.01, 0, 100, summary="added to the size of a weight"),
    ),
    _sharpness(
        "gradient_norm_penalty",
        "penalty on the norm of the gradient (Zhao et al. 2022)",
        Option("r", "number", 0.1, 0, 100, open_low=True, summary="distance of the step up"),
        Option("a", "number", 0.8, 0, 1, open_low=True, summary="weight of the gradient there; penalty a r"),
    ),
)
