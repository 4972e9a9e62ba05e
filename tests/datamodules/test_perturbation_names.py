"""Names of perturbations: what is accepted, and what is said of the rest."""

import re

import pytest

from datamodules.errors import DataError
from datamodules.perturbations import NAMES_HELP, PRESETS, REUPLOADS, STUDY, expanded, perturbation

NAMES = [
    *("none", "jpeg_40", "jpeg_40_444", "webp_80", "resize_0.5", "limit_32", "crop_16", "crop_half", "blur_1.0", "noise_0.05"),
    *("grayscale", "horizontal_flip", "rotate_30", "color_jitter", "shuffle_4", "resize_0.5+jpeg_75", "equalise_224", *REUPLOADS),
]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("jpeg_0", "Q of jpeg_Q must be a whole number from 1 to 100, not '0'"),
        ("jpeg_101_444", "Q of jpeg_Q_444 must be a whole number from 1 to 100, not '101'"),
        ("jpeg_40_422", "not '40_422'"),
        ("jpeg_٤٠", "must be a whole number"),
        ("jpeg_40\n", "must be a whole number"),
        ("webp_80.5", "must be a whole number"),
        ("noise_-1", "SIGMA of noise_SIGMA must be a number from 0.001 to 1, not '-1'"),
        ("noise_nan", "not 'nan'"),
        ("noise_inf", "not 'inf'"),
        ("blur_1e9", "not '1e9'"),
        ("blur_1000000000", "from 0.1 to 20"),
        ("resize_0", "from 0.05 to 4"),
        ("resize_0.0", "from 0.05 to 4"),
        ("rotate_181", "from 1 to 180"),
        ("crop_0", "from 16 to 16384"),
        ("equalise_15", "S of equalise_S must be a whole number from 16 to 4096, not '15'"),
        ("equalise_4097", "from 16 to 4096"),
        ("equalise_224.0", "whole number"),
        ("equalise_0224", "write equalise_224, the only spelling"),
        ("robustness", "a preset of several (none, jpeg_95, "),
        ("crop_half+jpeg", "jpeg is a preset of several (jpeg_95, jpeg_90, jpeg_75, jpeg_65, jpeg_40)"),
        ("shuffle_1", "N of shuffle_N must be a whole number from 2 to 64, not '1'"),
        ("shuffle_2.0", "whole number"),
        ("limit_1", "from 16 to 16384"),
        ("resize_1.0", "write none"),
        ("noise_0.050", "write noise_0.05, the only spelling"),
        ("blur_1", "write blur_1.0, the only spelling"),
        ("jpeg_040", "write jpeg_40, the only spelling"),
        ("jpeg_040_444", "write jpeg_40_444, the only spelling"),
        ("none+jpeg_40", "none is no link of a chain"),
        ("+".join(["grayscale"] * 9), "89 characters, 80 at most"),
    ],
)
def test_a_wrong_number_or_spelling_is_refused_with_what_is_right(name, told):
    with pytest.raises(DataError, match=re.escape(told)) as refused:
        perturbation(name)
    assert repr(name)[:60] in str(refused.value)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("jpg_90", "jpeg_40"),
        ("JPEG_40", "jpeg_40"),
        ("colour_jitter", "color_jitter"),
        ("greyscale", "grayscale"),
        ("horizontal_flip_0.5", "horizontal_flip"),
        ("crop_halff", "crop_half"),
        ("rotation_30", "rotate_30"),
        ("shufle_4", "shuffle_4"),
        ("reupload_facebook", REUPLOADS[0]),
        ("resize_0.5+jpgg_75", "jpeg_40"),
        ("equalize_224", "equalise_224"),
    ],
)
def test_a_near_miss_gets_a_suggestion_and_all_names(name, suggestion):
    with pytest.raises(DataError) as refused:
        perturbation(name)
    assert f"did you mean one like {suggestion}?" in str(refused.value)
    assert NAMES_HELP in str(refused.value)


@pytest.mark.parametrize("name", ["", "+", "jpeg_40+", "foo", "../jpeg_40", "jpeg", "jpeg_", "none "])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(DataError, match=r"is not known|is no link|is a preset of several"):
        perturbation(name)


@pytest.mark.parametrize("name", [*NAMES, *STUDY])
def test_every_accepted_name_is_a_safe_file_name(name):
    perturbation(name)
    assert re.fullmatch(r"[a-z][a-z0-9_.+]{0,79}", name)


def test_the_help_names_every_form_in_one_line():
    assert "\n" not in NAMES_HELP
    for name in NAMES:
        for link in name.split("+"):
            form = re.split(r"\d", link)[0]
            assert form in NAMES_HELP, link


@pytest.mark.parametrize(
    ("name", "preset"), [("robustnes", "robustness"), ("re-uploads", "reuploads"), ("zeroshot", "zero_shot"), ("JPEG", "jpeg")]
)
def test_a_near_miss_of_a_preset_gets_it(name, preset):
    with pytest.raises(DataError, match=f"did you mean the preset {preset}?") as refused:
        perturbation(name)
    assert NAMES_HELP in str(refused.value)


def test_presets_stand_for_perturbations_and_are_none():
    assert {"zero_shot", "reuploads", "jpeg", "webp", "resize", "blur", "noise", "robustness"} <= set(PRESETS)
    for preset, members in PRESETS.items():
        assert preset in NAMES_HELP
        assert len(set(members)) == len(members) >= 3
        for name in members:
            perturbation(name)
            assert name not in PRESETS
        with pytest.raises(DataError, match="is a preset of several"):
            perturbation(preset)


def test_the_robustness_preset_grades_each_family():
    members = PRESETS["robustness"]
    assert members[0] == "none"
    assert set(REUPLOADS) <= set(members)
    for family, weakens in (("jpeg", True), ("webp", True), ("resize", True), ("blur", False), ("noise", False)):
        strengths = [float(name.partition("_")[2]) for name in members if name.startswith(f"{family}_")]
        assert len(strengths) >= 3
        assert strengths == sorted(strengths, reverse=weakens)
    assert sum(name.startswith("crop_half") for name in members) >= 3


def test_presets_are_replaced_in_place_each_name_once():
    assert expanded(["jpeg_40", "jpeg", "none", "jpeg_75"]) == ["jpeg_40", "jpeg_95", "jpeg_90", "jpeg_75", "jpeg_65", "none"]
    assert expanded(["robustness", "zero_shot"]) == list(dict.fromkeys(PRESETS["robustness"] + PRESETS["zero_shot"]))
    assert expanded(["blurr", "jpeg+crop_half", ""]) == ["blurr", "jpeg+crop_half", ""]  # whoever uses them is told
    assert expanded([]) == []
