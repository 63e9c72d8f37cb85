"""Weights of a file as the state at a run's root, so that everything else finds them in the store."""

from __future__ import annotations

from collections.abc import Iterable

from isoloss import models
from isoloss.plan.lower import Lowered, open_source
from isoloss.plan.outside import content
from isoloss.recipe.errors import RunFailed
from isoloss.store import Piece, Store
from isoloss.train.loop import Trainer


def publish(store: Store, runs: Iterable[Lowered]) -> None:
    """Put the initial state of every run that begins with weights of a file into ``store``, where it is not there.

    The state has no memory of an optimizer and has seen no data. Raises RunFailed where the file has changed.
    """
    for lowered in {run.run.root_key: run for run in runs if run.weights}.values():
        run, path = lowered.run, lowered.weights
        if path is None or run.start.weights is None or store.has(run.root_key):
            continue
        from safetensors.torch import load_file

        digest, _, head = run.start.weights.partition(":")
        if content(path) != digest:
            raise RunFailed(f"init.weights: {path} has changed since the plan was made: run the study again")
        data = lowered.before.data if lowered.before else lowered.data
        trainer = Trainer(run.start, run.phases[0], open_source(data), run.numerics)
        if path.is_dir():
            given = models.saved_weights(
                path,
                run.start.model["spec"],
                vocabulary=trainer.source.vocabulary,
                context=trainer.context,
                head="reset" if head else "keep",
            )
        else:
            given = load_file(path)
        trainer.begin_with(given, reset_head=bool(head))
        tensors, _ = trainer.state()
        kept = {name: value for name, value in tensors.items() if not name.startswith("optimizer/")}
        meta: dict[str, object] = {"update": 0, "samples": 0, "first_loss": None, "optimizer": {}}
        recipes = {run.root_key: run.recipe(0)}
        store.publish(Piece(run.root_key, run.root_key, 0, 0, kept, meta, recipes=recipes, track=run.root_key))
