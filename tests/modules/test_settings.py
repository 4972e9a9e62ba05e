"""Settings of nested objects, and what a stranger's settings may not name."""

import copy

import pytest

from modules.detectors import Fusion, LinearProbe
from modules.diffusion import LatentDenoiser
from modules.extractors import Complexity, Divergence, Extractor, Likelihood, Together
from modules.settings import fingerprint, from_settings, settings_of


@pytest.mark.parametrize(
    "build",
    [
        lambda: Divergence(LatentDenoiser("x", revision="r"), samples=3, size=64, prompt_source="records"),
        lambda: Likelihood({"a": LatentDenoiser("x"), "b": LatentDenoiser("y", model_dtype="bfloat16")}),
        lambda: Together({"a": Complexity(size=32), "b": Together({"c": Complexity()})}),
        lambda: Fusion({"a": LinearProbe(4, calibration="sigmoid"), "b": LinearProbe(3, feature="f")}, "max_logit"),
    ],
)
def test_nested_objects_come_back(build):
    first = build()
    told = first.settings()
    again = from_settings(copy.deepcopy(told))
    assert type(again) is type(first)
    assert again.settings() == told
    assert fingerprint(again.settings()) == fingerprint(told)


def test_arguments_of_base_classes_count_where_they_are_handed_on():
    told = Divergence(LatentDenoiser(), size=32, captioner="me/mine").settings()["init_args"]
    assert told["size"] == 32
    assert told["captioner"] == "me/mine"
    assert told["denoiser"]["init_args"]["path"] == "assets/tiny-diffusion"
    assert "options" not in told


def test_another_inner_setting_is_another_fingerprint():
    first, other = (Divergence(LatentDenoiser("x", model_dtype=dtype)).settings() for dtype in ("float32", "bfloat16"))
    assert fingerprint(first) != fingerprint(other)


@pytest.mark.parametrize(
    "path",
    ["os.system", "modules.detectors.base.AdamW", "modules.networks.released.Path", "modules.images.to_unit", "modules.nowhere.X", "X"],
)
def test_only_classes_that_are_defined_here_are_built_inside_too(path):
    evil = {"class_path": path, "init_args": {}}
    with pytest.raises(ValueError, match="class_path"):
        from_settings(evil)
    told = Divergence(LatentDenoiser()).settings()
    told["init_args"]["denoiser"] = evil
    with pytest.raises(ValueError, match="class_path"):
        from_settings(told, base=Extractor)


def test_other_objects_have_no_settings():
    with pytest.raises(TypeError, match=r"Complexity\.size is a set"):
        settings_of(_with(Complexity(), {1, 2}))


def _with(extractor, size):
    extractor.size = size
    return extractor
