"""The predictions table: its contract, written and read back."""

import math

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from evaluation.predictions import COLUMNS, OPTIONAL, SCHEMA, PredictionsError, make_table, read_predictions, write_predictions


def row(**values):
    given = {"key": "a", "dataset": "faces", "label": 1, "generator": "sd", "detector": "probe", "score": 0.5}
    return given | values


def test_table_has_the_contract_and_defaults():
    table = make_table([row(score=np.float32(1.5)), row(key="b", label=np.int64(0), score=None, split="test")])
    assert tuple(table.columns) == COLUMNS
    assert table["perturbation"].tolist() == ["none", "none"]
    assert table["family"].tolist() == ["unknown", "unknown"]
    assert table["group"].tolist() == ["", ""]
    assert table["label"].dtype == np.int64
    assert table["score"].dtype == np.float64
    assert math.isnan(table["score"][1])
    assert table["split"].isna().tolist() == [True, False]


def test_written_and_read_back(tmp_path):
    table = make_table([row(), row(key="b", label=0, path="/ä ö/1.png", probability=0.25, predicted_family="gan")])
    path = write_predictions(tmp_path / "run" / "predictions.parquet", table)
    pd.testing.assert_frame_equal(read_predictions(path), table)
    schema = pq.read_schema(path)
    assert {name: schema.field(name).type for name in COLUMNS} == {name: SCHEMA.field(name).type for name in COLUMNS}
    assert [file.name for file in path.parent.iterdir()] == ["predictions.parquet"]


def test_optional_columns_are_there_where_a_row_has_a_value(tmp_path):
    assert make_table([row(novelty=None, predicted_generator=None)]).columns.tolist() == list(COLUMNS)
    given = {"family_probability": np.float32(0.75), "predicted_generator": "sd-2.1", "novelty": 3}
    table = make_table([row(**given), row(key="b"), row(key="c", novelty=math.nan)])
    assert table.columns.tolist() == [*COLUMNS, *given]
    assert table["novelty"].dtype == table["family_probability"].dtype == np.float64
    assert table["predicted_generator"].tolist()[0] == "sd-2.1"
    assert table[list(given)].isna().sum().tolist() == [2, 2, 2]
    path = write_predictions(tmp_path / "p.parquet", table.assign(bytes=1))
    schema = pq.read_schema(path)
    assert {name: schema.field(name).type for name in given} == {name: OPTIONAL.field(name).type for name in given}
    pd.testing.assert_frame_equal(read_predictions(path), table.assign(bytes=1))


def test_tables_with_and_without_optional_columns_are_put_together(tmp_path):
    heads = make_table([row(predicted_family="gan", predicted_generator="sd", novelty=1.5)])
    for order in ([0, 1], [1, 0]):
        tables = [heads, make_table([row(detector="other")])]
        found = read_predictions(write_predictions(tmp_path / "p.parquet", pd.concat([tables[n] for n in order], ignore_index=True)))
        assert found.columns.tolist() == [*COLUMNS, "predicted_generator", "novelty"]
        other = found[found["detector"] == "other"].iloc[0]
        assert other[["predicted_family", "predicted_generator", "novelty"]].isna().all()
        assert found[found["detector"] == "probe"].iloc[0]["novelty"] == 1.5
    without = found[found["detector"] == "other"]
    assert read_predictions(write_predictions(tmp_path / "q.parquet", without)).columns.tolist() == list(COLUMNS)


def test_empty_table(tmp_path):
    path = write_predictions(tmp_path / "p.parquet", make_table([]))
    assert read_predictions(path).empty


def test_further_columns_categories_and_float32_are_fine(tmp_path):
    table = make_table([row(), row(key="b")])
    table["bytes"] = [10, 20]
    table["generator"] = table["generator"].astype("category")
    table["score"] = table["score"].astype("float32")
    found = read_predictions(write_predictions(tmp_path / "p.parquet", table))
    assert found["bytes"].tolist() == [10, 20]
    assert found["score"].dtype == np.float64
    assert found["generator"].tolist() == ["sd", "sd"]


def test_doubled_rows_are_dropped_with_a_warning(tmp_path):
    rows = make_table([row(), row(key="b"), row(detector="other"), row(perturbation="jpeg_40")])
    doubled = pd.concat([rows, rows.head(2).assign(score=9.0)])
    doubled.to_parquet(tmp_path / "p.parquet")
    with pytest.warns(UserWarning, match="2 of 6 rows were there before"):
        found = read_predictions(tmp_path / "p.parquet")
    assert len(found) == 4
    assert 9.0 not in found["score"].tolist()
    with pytest.warns(UserWarning, match="2 of 6 rows"):
        write_predictions(tmp_path / "q.parquet", doubled)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.drop(columns=["key", "score"]), "lacks the columns key, score"),
        (lambda t: t.assign(score=["high", "low"]), "column score has the type"),
        (lambda t: t.assign(label=[0.5, 1.0]), "column label has the type double"),
        (lambda t: t.assign(label=[0, 2]), "column label is 0"),
        (lambda t: t.assign(key=[1, 2]), "column key has the type int64"),
        (lambda t: t.assign(perturbation=[None, "none"]), "perturbation is null in 1 of 2 rows; write 'none'"),
        (lambda t: t.assign(detector=None), "detector is null in 2 of 2 rows"),
        (lambda t: t.assign(novelty="high"), "column novelty has the type"),
        (lambda t: t.assign(predicted_generator=3.0), "column predicted_generator has the type double"),
        (lambda t: t.assign(family_probability=[0.5, 1.5]), r"family_probability is in \[0, 1\]; it holds \[1.5\]"),
    ],
)
def test_errors_name_the_column(tmp_path, change, match):
    broken = change(make_table([row(), row(key="b")]))
    with pytest.raises(PredictionsError, match=match):
        write_predictions(tmp_path / "p.parquet", broken)
    assert not (tmp_path / "p.parquet").exists()
    broken.to_parquet(tmp_path / "p.parquet")
    with pytest.raises(PredictionsError, match=match):
        read_predictions(tmp_path / "p.parquet")


def test_bad_rows_and_bad_files(tmp_path):
    with pytest.raises(PredictionsError, match="wrong type"):
        make_table([row(score="high")])
    with pytest.raises(PredictionsError, match="key is null"):
        make_table([row(key=None)])
    (tmp_path / "p.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(PredictionsError, match="is not a Parquet file"):
        read_predictions(tmp_path / "p.parquet")
    with pytest.raises(FileNotFoundError):
        read_predictions(tmp_path / "missing.parquet")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_predictions(tmp_path / "p.parquet", make_table([row()]))

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evaluation.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_predictions(path, make_table([row(key="b")]))
    assert read_predictions(path)["key"].tolist() == ["a"]
    assert len(list(tmp_path.iterdir())) == 1
