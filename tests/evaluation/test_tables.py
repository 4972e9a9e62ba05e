"""Tables of detectors × perturbations, from documents made by hand and from real ones."""

import math

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.resampling import bootstrap
from evaluation.statistics import KEPT, against_reals, measure, metrics_document
from evaluation.tables import COLUMNS, long_rows, perturbations_of, text, write_tables
from tests.evaluation.rows import THRESHOLD, usual_table


def cell(value, reason=None):
    return {"value": value, "low": None, "high": None} | ({"reason": reason} if reason else {})


def document(auroc, tpr, reason=None, names=("none", "crop_256")):
    record = {"auroc": cell(auroc, reason), "tpr_at_fpr": {"0.1": cell(tpr, reason)}, "n_real": 50, "n_fake": 60}
    named = record | {"dataset": "a/b", "generator": "sd"}
    return {
        "overall": record,
        "by_perturbation": dict.fromkeys(names, record),
        "by_generator_and_perturbation": {name: {"a/b/sd": named} for name in names},
    }


def test_one_line_a_detector_one_column_a_perturbation():
    shown = text({"divergence": document(0.4537, 0.078), "corvi": document(1.0, 1.0)})
    assert shown.splitlines() == [
        "AUROC and TPR at FPR 0.1, all generators together:",
        "detector           none     crop_256",
        "divergence  0.454 0.078  0.454 0.078",
        "corvi       1.000 1.000  1.000 1.000",
    ]


def test_what_is_missing_is_a_dash_with_its_reason():
    shown = text({"a": document(0.5, None, "too few real images"), "b": document(None, None, "it failed", ("none",))})
    assert "0.500 - (1)" in shown
    assert shown.splitlines()[-3:] == ["(1) too few real images", "(2) it failed", "(3) not measured"]
    last = next(line for line in shown.splitlines() if line.startswith("b "))
    assert last.split() == ["b", "-", "(2)", "-", "(3)"]


def test_eight_detectors_and_six_perturbations_fit_a_terminal():
    names = ("none", "crop_256", "grayscale", "horizontal_flip", "rotate_30", "color_jitter")
    documents = {f"a_detector_of_a_study_number_{n}": document(0.5, 0.1, names=names) for n in range(8)}
    lines = text(documents).splitlines()
    assert len(lines) == 10
    assert max(map(len, lines)) <= 120


def test_too_many_perturbations_are_wrapped_and_none_is_lost():
    names = tuple(f"perturbation_{n}" for n in range(20))
    lines = text({"a": document(0.5, 0.1, names=names)}, width=60).splitlines()
    assert max(map(len, lines)) <= 60
    heads = [name for line in lines if line.startswith("detector") for name in line.split()[1:]]
    assert tuple(heads) == names
    narrow = text({"a": document(0.5, 0.1, names=names)}, width=5).splitlines()
    assert sum(line.startswith("detector") for line in narrow) == 20


def test_hostile_names_stay_in_their_line(tmp_path):
    name = "x\n\x1b[2J" + "y" * 100
    lines = text({name: document(0.5, 0.1, "z\n\x1b[2J", names=(name,))}).splitlines()
    assert len(lines) == 3
    assert "\x1b" not in "".join(lines)
    for path in write_tables(tmp_path, {name: document(0.5, 0.1, names=(name,))}):
        assert "\x1b" not in path.read_text()
        assert len(path.read_text().splitlines()) in (2, 1 + len(KEPT))


def test_detectors_whose_shortened_names_are_equal_keep_their_lines():
    documents = {"d" * 40 + end: document(value, 0.1) for end, value in (("a", 0.25), ("b", 0.75))}
    lines = text(documents).splitlines()
    assert ["0.250" in lines[2], "0.750" in lines[3]] == [True, True]


def test_tables_as_csv(tmp_path):
    documents = {"one": document(0.75, 0.125), "two": document(None, None, "it failed", ("none", "jpeg_40"))}
    written = write_tables(tmp_path, documents)
    assert [path.name for path in written] == ["auroc.csv", "tpr_at_fpr_0.1.csv", "table.csv"]
    assert perturbations_of(documents) == ["none", "crop_256", "jpeg_40"]
    assert written[0].read_text() == "detector,none,crop_256,jpeg_40\none,0.75,0.75,\ntwo,,,\n"
    assert written[1].read_text() == "detector,none,crop_256,jpeg_40\none,0.125,0.125,\ntwo,,,\n"
    rows = pd.read_csv(written[2])
    assert tuple(rows.columns) == COLUMNS
    assert len(rows) == 2 * 2 * len(KEPT)
    first = rows.iloc[0]
    assert (first.dataset, first.generator, first.metric, first.value, first.n_fake) == ("a/b", "sd", "auroc", 0.75, 60)
    assert rows[rows.detector == "two"].value.isna().all()


def test_long_rows_are_of_each_generator_under_each_perturbation():
    clean = usual_table()
    table = pd.concat([clean, clean.assign(perturbation="jpeg_40", score=clean["score"] * (1 - 0.5 * clean["label"]))])
    made = metrics_document(table, THRESHOLD, {"scenes": "faces"}, resamples=30)
    rows = {(r["dataset"], r["generator"], r["perturbation"], r["metric"]): r for r in long_rows({"probe": made})}
    assert len(rows) == 3 * 2 * len(KEPT)
    for name in ("none", "jpeg_40"):
        for place, part in against_reals(table[table["perturbation"] == name], {"scenes": "faces"}).items():
            dataset, generator = place.split("/")
            expected = measure(part, THRESHOLD, resamples=30)
            found = [rows[dataset, generator, name, metric] for metric in KEPT]
            places = [expected["auroc"], expected["tpr_at_fpr"]["0.1"], expected["accuracy"], expected["balanced_accuracy"]]
            places += [expected["tpr_at_threshold"], expected["fpr_at_threshold"]]
            for row, wanted in zip(found, places, strict=True):
                assert (row["value"], row["low"], row["high"]) == (wanted["value"], wanted["low"], wanted["high"])
                assert (row["n_real"], row["n_fake"]) == (expected["n_real"], expected["n_fake"])
    assert rows["scenes", "sd", "none", "auroc"]["n_real"] == 240


@pytest.mark.parametrize("several", [False, True])
def test_one_generator_is_not_measured_twice(several, monkeypatch):
    counted = []
    monkeypatch.setattr("evaluation.statistics.bootstrap", lambda *given: counted.append(given) or bootstrap(*given))
    clean = usual_table().query("dataset == 'faces'" + ("" if several else " and generator != 'gan'"))
    table = pd.concat([clean, clean.assign(perturbation="jpeg_40", score=clean["score"] - clean["label"])])
    made = metrics_document(table, THRESHOLD, resamples=10)
    crossed = made["by_generator_and_perturbation"]["jpeg_40"]["faces/sd"]
    alone = measure(against_reals(table[table["perturbation"] == "jpeg_40"])["faces/sd"], THRESHOLD, resamples=10)
    assert crossed["auroc"] == alone["auroc"]
    assert math.isclose(crossed["auroc"]["value"], made["by_perturbation"]["jpeg_40"]["auroc"]["value"]) is not several
    # overall, jpeg_40, the source of the reals under each, each generator; and under jpeg_40 each generator where there are several
    assert len(counted) == (4 + 2 + 2 if several else 4 + 1) + 1  # and `alone`


def test_perturbations_keep_the_order_of_the_rows():
    clean = usual_table()
    table = pd.concat([clean.assign(perturbation=name) for name in ("none", "jpeg_90", "jpeg_40", "crop_256")])
    made = metrics_document(table, THRESHOLD, resamples=5)
    assert list(made["by_perturbation"]) == ["none", "jpeg_90", "jpeg_40", "crop_256"]
    assert list(made["by_generator_and_perturbation"]) == list(made["by_perturbation"])


def test_each_data_set_under_each_perturbation_with_all_its_generators():
    clean = usual_table()
    table = pd.concat([clean, clean.assign(perturbation="jpeg_40", score=clean["score"] * (1 - 0.5 * clean["label"]))])
    made = metrics_document(table, THRESHOLD, {"scenes": "faces"}, resamples=30)["by_dataset_and_perturbation"]
    assert {name: list(parts) for name, parts in made.items()} == {"none": ["faces", "scenes"], "jpeg_40": ["faces", "scenes"]}
    rows = table[table["perturbation"] == "jpeg_40"]
    faces = rows[rows["dataset"] == "faces"]
    lent = pd.concat([faces[faces["label"] == 0], rows[(rows["dataset"] == "scenes") & (rows["label"] == 1)]])
    for name, part in (("faces", faces), ("scenes", lent)):
        expected, found = measure(part, THRESHOLD, resamples=30), made["jpeg_40"][name]
        assert (found["dataset"], found["generator"]) == (name, None)
        assert {each: found[each] for each in ("auroc", "accuracy", "n_real", "n_fake")} == {
            each: expected[each] for each in ("auroc", "accuracy", "n_real", "n_fake")
        }


def test_several_data_sets_each_have_a_block_in_the_terminal_and_a_line_in_the_tables(tmp_path):
    clean = usual_table()
    table = pd.concat([clean, clean.assign(perturbation="jpeg_40", score=clean["score"] * (1 - 0.5 * clean["label"]))])
    made = {"probe": metrics_document(table, THRESHOLD, {"scenes": "faces"}, resamples=10)}
    lines = text(made).splitlines()
    titles = [line for line in lines if line.startswith("AUROC")]
    assert titles == [f"AUROC and TPR at FPR 0.1, {name}:" for name in ("all generators and data sets together", "faces", "scenes")]
    scenes = made["probe"]["by_dataset_and_perturbation"]["jpeg_40"]["scenes"]
    assert f"{scenes['auroc']['value']:.3f} {scenes['tpr_at_fpr']['0.1']['value']:.3f}" in lines[lines.index(titles[2]) + 2]
    write_tables(tmp_path, made)
    for metric in ("auroc", "tpr_at_fpr_0.1"):
        rows = pd.read_csv(tmp_path / f"{metric}_by_dataset.csv").set_index(["detector", "dataset"])
        assert list(rows.columns) == ["none", "jpeg_40"]
        for dataset in ("faces", "scenes"):
            for name in rows.columns:
                record = made["probe"]["by_dataset_and_perturbation"][name][dataset]
                expected = record["auroc"] if metric == "auroc" else record["tpr_at_fpr"]["0.1"]
                assert rows.loc[("probe", dataset), name] == pytest.approx(expected["value"], abs=1e-12)
    write_tables(tmp_path / "one", {"probe": metrics_document(clean.query("dataset == 'faces'"), THRESHOLD, resamples=5)})
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"auroc.csv", "tpr_at_fpr_0.1.csv", "by_generator.csv", "table.csv"}


def test_generators_side_by_side_with_their_means(tmp_path):
    clean = usual_table()
    other = clean[clean["dataset"] == "faces"].assign(detector="svm", score=-clean["score"])
    made = metrics_document(pd.concat([clean, other]), {"probe": THRESHOLD, "svm": THRESHOLD}, resamples=5)["detectors"]
    write_tables(tmp_path, made)
    rows = pd.read_csv(tmp_path / "by_generator.csv").set_index("detector")
    assert list(rows.columns) == ["faces/gan", "faces/sd", "scenes/sd", "macro", "size_weighted"]
    parts = against_reals(clean)
    values = {name: roc_auc_score(part["label"], part["score"]) for name, part in parts.items()}
    assert rows.loc["probe", list(values)].to_dict() == pytest.approx(values)
    assert rows.loc["probe", "macro"] == pytest.approx(sum(values.values()) / 3)
    weighted = (120 * values["faces/gan"] + 120 * values["faces/sd"] + 40 * values["scenes/sd"]) / 280
    assert rows.loc["probe", "size_weighted"] == pytest.approx(weighted)
    assert rows.loc["svm", "faces/sd"] == pytest.approx(1 - values["faces/sd"])
    assert math.isnan(rows.loc["svm", "scenes/sd"])
