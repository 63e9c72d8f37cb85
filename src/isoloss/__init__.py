"""isoloss: what a training method is worth, at equal loss, in data, updates and compute.

    import isoloss
    print(isoloss.plan("study.yaml"))                     # what would be trained, and what it costs
    results = isoloss.run("study.yaml", "study.store")    # train what the store lacks
    results.frame()                                       # one row a run
    isoloss.worth(results)                                # ratios of data, updates and compute at equal loss
    isoloss.report(results.answer(), "page")              # the page

The parts work alone in any loop: ``isoloss.methods``, ``isoloss.laws``, ``isoloss.worth``. Everything is loaded
when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoloss import plan, report, worth
    from isoloss.facade import averages, branch, results, run
    from isoloss.laws import fit
    from isoloss.store import Store
    from isoloss.study import load as load_study
    from isoloss.worth.line import line
    from isoloss.worth.results import Results

__all__ = [
    "Results",
    "Store",
    "averages",
    "branch",
    "fit",
    "line",
    "load_study",
    "plan",
    "report",
    "results",
    "run",
    "worth",
]

_LAZY = {
    "Results": ("isoloss.worth.results", "Results"),
    "Store": ("isoloss.store", "Store"),
    "averages": ("isoloss.facade", "averages"),
    "branch": ("isoloss.facade", "branch"),
    "fit": ("isoloss.laws", "fit"),
    "line": ("isoloss.worth.line", "line"),
    "load_study": ("isoloss.study", "load"),
    "results": ("isoloss.facade", "results"),
    "run": ("isoloss.facade", "run"),
}
_ROOMS = ("bridges", "data", "execute", "laws", "methods", "models", "plan", "recipe", "report", "store", "study")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, attribute = _LAZY[name]
        return getattr(importlib.import_module(module), attribute)
    if name in (*_ROOMS, "train", "worth"):
        return importlib.import_module(f"isoloss.{name}")
    raise AttributeError(f"module 'isoloss' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
