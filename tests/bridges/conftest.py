"""What the packages of others are told before they are imported: no network, no telemetry."""

from __future__ import annotations

import os

os.environ.update(
    {
        "DO_NOT_TRACK": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TRANSFORMERS_OFFLINE": "1",
        "WANDB_ERROR_REPORTING": "false",
    }
)
