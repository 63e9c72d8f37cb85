"""The declarative file: what a user may write, checked, and expanded into the cells of a study."""

from isoloss.study.study import Arm, Cell, Study, Tune, from_dict, load, loads

__all__ = ["Arm", "Cell", "Study", "Tune", "from_dict", "load", "loads"]
