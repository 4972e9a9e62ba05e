"""Where the public benchmarks keep their images, and what their folders' names mean: a few lines of YAML each."""

from datamodules.layouts.finding import Fit, find_layout, fit_layout
from datamodules.layouts.form import Layout, Rule, Table, layout_names, load_layout

__all__ = ["Fit", "Layout", "Rule", "Table", "find_layout", "fit_layout", "layout_names", "load_layout"]
