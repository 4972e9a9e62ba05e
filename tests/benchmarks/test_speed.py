"""Benchmarks of speed as commands, tiny: that they run, and that both ways give the same numbers. Nothing is timed.

Those that start train.py and extract.py (`start_up`, `two_processes`) take a minute each; what they compare is tested in
`test_train.py` and `test_extract.py`.
"""

import json

import pytest

from benchmarks import __main__ as everything
from benchmarks import divergence, embedding, inversion, overlap, reader, training_step
from benchmarks.measuring import Row, alternate, compared, table


@pytest.fixture
def command(tmp_path):
    """Runs a benchmark with a round that counts; gives the figures of its rows, as its file has them."""

    def run(module, *options):
        output = tmp_path / "figures.json"
        rows = module.main(["--rounds", "1", "--json", str(output), *options])
        told = json.loads(output.read_text())
        assert told["machine"]["torch"]
        assert [row["what"] for row in told["rows"]] == [row.what for row in rows]
        assert all(row["figures"]["ratio"]["median"] > 0 for row in told["rows"])
        return [row["figures"] for row in told["rows"]]

    return run


def test_rounds_alternate_and_the_first_is_left_out():
    called = []
    seconds = alternate({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, rounds=2)
    assert called == ["a", "b"] * 3
    assert {name: len(found) for name, found in seconds.items()} == {"a": 2, "b": 2}


def test_the_ratio_is_the_median_of_the_rounds_ratios():
    row = compared("reading", "samples", 10, [1.0, 2.0, 4.0], ("theirs", [3.0, 4.0, 40.0]), "≥ 5")
    assert row.ratio == "3× (2 to 10)"
    assert row.ours == "5 samples/s (2.5 to 10)"
    assert row.against == "theirs: 2.5 samples/s (0.25 to 3.33)"
    slower = compared("starting", "runs", 1, [1.2], ("importing", [1.0]), "≤ 1.3")
    assert (slower.ratio, slower.ours) == ("1.2× (1.2 to 1.2)", "1.2 s (1.2 to 1.2)")
    assert table([row, slower]).splitlines()[2].startswith("| reading | 5 samples/s (2.5 to 10) | theirs: ")


def test_inversion_is_that_of_diffusers_and_not_twice_as_far_from_float64(command):
    first, _ = command(inversion, "--images", "3", "--steps", "4")
    assert max(first["largest"]) < 1e-3
    assert first["levels"] <= 1
    for ours, theirs in zip(first["from_float64"]["ours"], first["from_float64"]["one at a time"], strict=True):
        assert ours < 2 * theirs, "both are float32's rounding"
        assert theirs > 0


def test_divergence_is_the_same_however_it_is_cut(command):
    first, _ = command(divergence, "--images", "2", "--probes", "3")
    assert 0 <= first["largest"]["k"] < 1e-3
    assert 0 <= first["largest"]["one"] < 1e-3


def test_both_readers_give_the_same_samples(command, tmp_path):
    assert [row["differing"] for row in command(reader, "--images", "70")] == [0, 0]
    known = reader.records(6)
    for name, some in (("whole", known), ("less", known[:5])):
        reader.fill(tmp_path / name, some, (3, 4, 4), reader.np.uint8)
    assert reader.differing(reader.reader(tmp_path / "whole", known), reader.web_dataset(tmp_path / "less")) == 1, "it would be seen"


@pytest.mark.parametrize(("encoder", "side"), [(embedding.BUILT_IN, 64), ("torchvision/mobilenet_v3_small", 224)])
def test_embeddings_are_those_of_one_image_at_a_time(command, encoder, side):
    (row,) = command(embedding, "--images", "4", "--side", str(side), "--encoders", encoder)
    assert row["largest"] < 1e-5, "the files have the encoder's size: nothing but rounding is left"


def test_overlapping_changes_no_feature(command):
    rows = command(overlap, "--images", "4", "--side", "64", "--steps", "2")
    assert [row["largest"] for row in rows] == [0, 0]


def test_training_from_shards_is_training_from_memory(command):
    (row,) = command(training_step, "--images", "64")
    assert row["largest"] == 0
    assert 0 < row["waiting"]["median"] < 100


def test_all_of_them_make_one_table(tmp_path, monkeypatch, capsys):
    def run(command, **_):
        name = command[2].removeprefix("benchmarks.")
        if name == "overlap":
            return everything.subprocess.CompletedProcess(command, 1, "", "no disk")
        told = {"machine": everything_machine, "rows": [everything_row(name)]}
        (tmp_path / f"{name}.json").write_text(json.dumps(told))
        return everything.subprocess.CompletedProcess(command, 0, "", "")

    everything_machine = {"processor": "x", "cores": 2, "threads": 2, "load": 0, "python": "3", "torch": "2", "diffusers": "0"}
    monkeypatch.setattr(everything.subprocess, "run", run)
    assert everything.main(["--folder", str(tmp_path), "reader"]) == [Row("reader", "1", "2")]
    with pytest.raises(SystemExit, match="overlap failed: no disk"):
        everything.main(["--folder", str(tmp_path)])
    assert capsys.readouterr().out.count("| inversion |") == 1


def everything_row(name):
    return {"what": name, "ours": "1", "against": "2", "ratio": "", "target": "", "difference": "", "figures": {}}
