"""Files of published numbers: the shipped ones are read, broken and hostile ones are refused in a sentence."""

import json
from pathlib import Path

import pytest

from evaluation.comparison.targets import MACRO, MOST_BYTES, TargetsError, read_targets

ROW = {
    "detector": "d",
    "train": None,
    "dataset": "s",
    "generator": "g",
    "perturbation": "none",
    "metric": "auroc",
    "value": 0.5,
}


def read(tmp_path, document):
    path = tmp_path / "targets.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return read_targets(path)


@pytest.mark.parametrize("path", sorted(Path("targets").glob("*.json")), ids=str)
def test_shipped_targets_are_read(path):
    found = read_targets(path)
    told = json.loads(path.read_text())
    assert found.source == told["source"]
    assert [row.value for row in found.rows] == [row["value"] for row in told["rows"]]
    assert [row.n for row in found.rows] == [row.get("n") for row in told["rows"]]
    assert found.status
    assert found.setting


def test_published_means_over_generators_are_those_of_the_rows_beside_them():
    rows = read_targets(Path("targets/synris_reimplementation.json")).rows
    for detector in ("fakeinversion@channels_9", "fakeinversion@channels_12"):
        mine = [row for row in rows if row.detector == detector]
        [mean] = [row for row in mine if row.generator == MACRO]
        others = [row for row in mine if row.generator != MACRO]
        assert (mean.dataset, mean.n, len(others)) == ("synris", None, 12)
        assert mean.value == pytest.approx(sum(row.value for row in others) / 12, abs=5e-5)
        weighted = sum(row.value * row.n for row in others) / sum(row.n for row in others)
        assert abs(mean.value - weighted) > 0.01


def test_shipped_requirements_are_those_of_the_post():
    found = read_targets(Path("targets/zero_shot_blog.json"))
    assert (found.n_real, found.n_fake) == (500, 500)
    assert found.settings["divergence"]["extractor.samples"] == (10,)
    assert found.settings["reconstruction"]["extractor.denoiser.path"] == ("CompVis/stable-diffusion-v1-4",)


def test_requirements_are_optional_and_may_name_alternatives(tmp_path):
    plain = read(tmp_path, {"source": "x", "rows": [ROW]})
    assert (plain.n_real, plain.n_fake, plain.settings, plain.note) == (None, None, {}, "")
    some = read(tmp_path, {"source": "x", "rows": [ROW], "requires": {"n_fake": 3, "settings": {"*": {"extractor.a.b": ["m", None, 2]}}}})
    assert (some.n_real, some.n_fake, some.settings) == (None, 3, {"*": {"extractor.a.b": ("m", None, 2)}})


def test_all_generators_together_and_requirements_of_training_threshold_and_test(tmp_path):
    paths = {"training.images": 10000, "threshold.fpr": None, "test.images": [5, 6]}
    found = read(tmp_path, {"source": "x", "rows": [ROW | {"generator": None}], "requires": {"settings": {"d": paths}}})
    assert (found.rows[0].generator, found.rows[0].images) == (None, "s")
    assert found.settings["d"] == {"training.images": (10000,), "threshold.fpr": (None,), "test.images": (5, 6)}
    assert read(tmp_path, rows()).rows[0].images == "s/g"


def test_a_setting_may_be_a_list_and_a_row_may_say_how_many_images(tmp_path):
    requires = {"settings": {"d": {"detector.inputs": [["a", "b"], ["c"]], "detector.one": ["a", "b"]}}}
    found = read(tmp_path, {"source": "x", "rows": [ROW | {"n": 7}, ROW | {"metric": "accuracy"}], "requires": requires})
    assert [row.n for row in found.rows] == [7, None]
    assert found.settings["d"] == {"detector.inputs": (("a", "b"), ("c",)), "detector.one": ("a", "b")}


def rows(**changed):
    return {"source": "x", "rows": [ROW | changed]}


def requiring(requires):
    return {"source": "x", "rows": [ROW], "requires": requires}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"", "cannot be read"),
        (b"\xff{}", "cannot be read"),
        (b"[" * 100_000, "too deeply nested"),
        (b'{"source": "a", "source": "b", "rows": []}', "the key 'source' is there twice"),
        (b'{"source": "a", "rows": [], "note": NaN}', "NaN is no number of JSON"),
        (b'{"rows": ' + b"1" * 10_000 + b"}", "cannot be read"),
        (b" " * (MOST_BYTES + 1), "larger than 4,000,000 bytes"),
        ([], "the file is a list; it must be an object"),
        ({"source": "x", "rows": [ROW], "extra": 1}, "the file has 'extra'; there are source, status"),
        ({"rows": [ROW]}, "source is None; it must be a text of 1 to 4000 characters"),
        ({"source": " ", "rows": [ROW]}, "source is ' '"),
        ({"source": "x" * 5000, "rows": [ROW]}, "source is 'xxx"),
        ({"source": "\ud800", "rows": [ROW]}, "surrogates not allowed"),
        ({"source": "x", "note": 3, "rows": [ROW]}, "note is 3"),
        ({"source": "x", "rows": []}, "rows is a list of 1 to 10,000 objects"),
        ({"source": "x", "rows": {}}, "rows is a list"),
        ({"source": "x", "rows": [ROW, 5]}, r"rows\[1\] is 5; it must be an object"),
        ({"source": "x", "rows": [{"detector": "d"}]}, r"rows\[0\] lacks train, dataset, generator, perturbation, metric, value"),
        ({"source": "x", "rows": [ROW, ROW | {"value": 0.4}]}, r"rows\[0\] and rows\[1\] are of the same detector"),
        (rows(value=1.5), r"rows\[0\]\.value is 1\.5; it must be a number from 0 to 1"),
        (rows(value=True), r"rows\[0\]\.value is True"),
        (rows(value="0.5"), r"rows\[0\]\.value is '0\.5'"),
        (rows(value=None), r"rows\[0\]\.value is None"),
        (rows(value=-(10**400)), r"rows\[0\]\.value is -1000"),
        (rows(detector=""), r"rows\[0\]\.detector is ''"),
        (rows(generator=7), r"rows\[0\]\.generator is 7"),
        (rows(dataset=None), r"rows\[0\]\.dataset is None"),
        (rows(train=7), r"rows\[0\]\.train is 7"),
        (rows(metric=["auroc"]), r"rows\[0\]\.metric is a list"),
        (rows(x=1), r"rows\[0\] has 'x'"),
        (rows(n=0), r"rows\[0\]\.n is 0; it must be a number of images, 1 at least"),
        (rows(n=None), r"rows\[0\]\.n is None"),
        (rows(n=True), r"rows\[0\]\.n is True"),
        (rows(n=12.0), r"rows\[0\]\.n is 12\.0"),
        (rows(n="12"), r"rows\[0\]\.n is '12'"),
        (requiring([]), "requires is a list"),
        (requiring({"n_real": "500"}), r"requires\.n_real is '500'; it must be a number of images"),
        (requiring({"n_real": -1}), r"requires\.n_real is -1"),
        (requiring({"n_fake": True}), r"requires\.n_fake is True"),
        (requiring({"n": 1}), "requires has 'n'"),
        (requiring({"settings": {"d": {"model": "x"}}}), r"'model' is no path such as extractor\.denoiser\.path"),
        (requiring({"settings": {"d": {"extractor..x": 1}}}), r"'extractor\.\.x' is no path"),
        (requiring({"settings": {"d": {"extractor.x": {}}}}), r"requires\.settings\.d\.extractor\.x is a text, a number"),
        (requiring({"settings": {"d": {"extractor.x": []}}}), "empty list: no value would do"),
        (requiring({"settings": {"d": {"extractor.x": [[["a"]]]}}}), r"requires\.settings\.d\.extractor\.x is a text, a number"),
        (requiring({"settings": {"d": 1}}), r"requires\.settings\.d is 1"),
    ],
)
def test_what_is_wrong_is_said_with_the_place(tmp_path, document, message):
    with pytest.raises(TargetsError, match=message) as caught:
        read(tmp_path, document)
    assert "targets.json" in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "\x1b" not in str(caught.value)


def test_no_file_or_a_folder(tmp_path):
    for path in (tmp_path / "nowhere.json", tmp_path):
        with pytest.raises(TargetsError, match="cannot be read"):
            read_targets(path)
