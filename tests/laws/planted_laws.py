"""Parameters of every form, as published where there are published ones, for the tests that plant them."""

from __future__ import annotations

import numpy as np

from isoloss.laws.forms import kaplan, transfer

REPEATS = {
    "A": np.exp(6.255414), "B": np.exp(7.3049974), "E": np.exp(0.6254804),
    "alpha": 0.3526596, "r_D": 15.387756, "r_N": 5.309743,
}  # fmt: skip
PLANTED: dict[str, dict[str, float]] = {
    "m1": {"b": 20, "c": 0.1},
    "m2": {"E": 1.7, "b": 50, "c": 0.3},
    "m3": {"b": 8, "g": 1e-9, "c": 0.3},
    "m4": {"E": 0.3, "L0": 2.0, "b": 300.0, "a": 0.7, "c": 0.4},
    "shifted-power": {"d": 1.5, "a": 300, "b": 5e6, "c": 0.3},
    "log-linear": {"a": 8, "b": 0.2},
    "envelope": {"L_inf": 1.7, "A": 1e3, "p": 0.15},
    "ppl": {"t1": 3.0, "t2": 0.01, "t3": -0.01, "X": 1e8},
    "bnsl-1": {"a": 0.5, "b": 20.0, "c0": 0.1, "c1": 0.4, "d1": 1e8, "f1": 0.4},
    "bnsl-2": {
        "a": 0.5, "b": 20.0, "c0": 0.1, "c1": 0.5, "d1": 1e7, "f1": 0.3, "c2": -0.4, "d2": 1e9, "f2": 0.3,
    },
    "nmt": {"a": 40, "C": 1e-9, "p": 0.28},
    "chinchilla": {"A": 400, "B": 2000, "E": 1.8, "alpha": 0.34, "beta": 0.37},
    "chinchilla-tied": {"A": 400, "B": 1500, "E": 1.8, "alpha": 0.35},
    "chinchilla-outer": {"A": 400, "B": 800, "E": 1.7, "alpha": 0.4, "beta": 0.42, "gamma": 0.7},
    "overtraining": {"a": 150, "b": 800, "E": 1.8, "h": 0.15},
    "kaplan": kaplan.JOINT,
    "kaplan-steps": kaplan.STEPS,
    "kaplan-n": kaplan.SINGLE["kaplan-n"],
    "kaplan-d": kaplan.SINGLE["kaplan-d"],
    "kaplan-c": {"C_c": 1e27, "alpha_C": 0.06},
    "data-constrained": REPEATS | {"beta": 0.37},
    "data-constrained-tied": REPEATS,
    "transfer": transfer.TEXT,
    "transfer-fraction": {"k": 1.9e4, "transfer": 0.82, "beta": 0.38},
    "critical-batch": {"B_star": 2e8, "inverse": 4.76},
    "steps-examples": {"S_min": 1e4, "E_min": 1e8},
    "sigmoid": {"a": -0.6, "b": 0.9, "x0": 0.9, "k": 6.0},
    "log-sigmoid": {"a": -0.25, "x0": 1.1, "k": 3.0},
    "exp-decay": {"e": 0.9, "k": 1.5, "g": 0.8},
    "log-growth": {"a": 2.0, "b": 1.0},
    "power-growth": {"a": 0.5, "p": 0.3},
    "additive:width,depth,D": {
        "A_width": 30, "A_depth": 4, "A_D": 900, "E": 1.5,
        "alpha_width": 0.6, "alpha_depth": 0.7, "alpha_D": 0.35,
    },
}  # fmt: skip
