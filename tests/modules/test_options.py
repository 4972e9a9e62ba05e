"""Options of one name mean the same in every class: they are kept when a class is swapped on the command line."""

import inspect

import pytest

from modules import detectors, extractors
from modules.settings import _arguments

# Of the diffusion models that inversion uses; what a prompt is for differs likewise.
KNOWN = {"size": {"InversionExtractor"}, "prompt_source": {"InversionExtractor"}}


def defaults(package):
    """Of each option, the defaults that classes give it."""
    found = {}
    for name in package.__all__:
        kind = getattr(package, name)
        parameters = {}
        for each in reversed(kind.__mro__):
            if "__init__" in vars(each):
                parameters |= inspect.signature(vars(each)["__init__"]).parameters
        for option in _arguments(kind):
            default = parameters[option].default
            if not callable(default) and name not in KNOWN.get(option, ()):
                found.setdefault(option, {})[name] = default
    return found


@pytest.mark.parametrize("package", [detectors, extractors])
def test_an_option_has_one_default_only(package):
    found = defaults(package)
    different = {option: kinds for option, kinds in found.items() if len({repr(default) for default in kinds.values()}) > 1}
    assert "size" in found or "frozen" in found
    assert different == {}
