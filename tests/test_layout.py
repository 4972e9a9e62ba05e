"""Imports go one way: the root scripts import everything, evaluation and datamodules import modules, modules import none of the others."""

import ast
from pathlib import Path

import pytest

PACKAGES = {"modules", "datamodules", "evaluation", "workflow"}
ALLOWED = {"modules": {"modules"}, "datamodules": {"datamodules", "modules"}, "evaluation": {"evaluation"}}
ROOT = {path.stem for path in Path().glob("*.py")}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_no_import_goes_back(package):
    files = sorted(Path(package).rglob("*.py"))
    assert files
    for path in files:
        for name in imported(path):
            top = name.partition(".")[0]
            if top in PACKAGES | ROOT and not (package == "evaluation" and name.startswith("modules.metrics")):
                assert top in ALLOWED[package], f"{path} imports {name}"


def test_sources_stand_above_what_they_read_by():
    """Layouts, tables and captions are read by sources, and by commands that use sources."""
    files = [*sorted(Path("datamodules/layouts").glob("*.py")), Path("datamodules/tables.py"), Path("datamodules/captions.py")]
    for path in files:
        above = [name for name in imported(path) if name.startswith(("datamodules.sources", "datamodules.generate"))]
        assert not above, f"{path} imports {above}"
