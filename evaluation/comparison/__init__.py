"""One detector, training or test condition beside another, and measured numbers beside published ones.

Most modules have a `text` for the terminal and a `write_…` for the tables: import the module.
"""

from evaluation.comparison.compared import Settings, compare, write_compared
from evaluation.comparison.targets import Targets, TargetsError, read_targets

__all__ = ["Settings", "Targets", "TargetsError", "compare", "read_targets", "write_compared"]
