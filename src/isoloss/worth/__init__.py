"""From measurements to an answer: what each arm is worth at equal loss."""

from isoloss.recipe.callable import make_callable
from isoloss.worth.compare import Ratio, Worth, compare
from isoloss.worth.results import Result, Results, collect

__all__ = ["Ratio", "Result", "Results", "Worth", "collect", "compare"]

make_callable(__name__, "compare")
