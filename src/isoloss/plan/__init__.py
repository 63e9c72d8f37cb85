"""From a study to what must be trained: demands, the prefix tree, segments and their cost."""

from isoloss.plan.summary import Summary, plan
from isoloss.recipe.callable import make_callable

__all__ = ["Summary", "plan"]

make_callable(__name__, "plan")
