"""What a manifest says of the files that its images were made from."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.errors import DataError
from datamodules.sources import ManifestSource

COLUMNS = ("source_format", "source_width", "source_height", "source_bytes")


@pytest.fixture
def write(tmp_path):
    for i in range(2):
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(tmp_path / f"{i}.png")

    def table(content, name="m.csv"):
        path = tmp_path / name
        if isinstance(content, pd.DataFrame):
            content.to_parquet(path)
        else:
            path.write_text(content)
        return str(path)

    return table


def told(path, tmp_path):
    return [tuple(getattr(record, name) for name in COLUMNS) for record in ManifestSource(path).records(tmp_path / "cache")]


def test_all_formats_agree_and_empty_cells_are_missing(write, tmp_path):
    frame = pd.DataFrame({"path": ["0.png", "1.png"], "label": [0, 1], "source_format": ["PNG", None]})
    frame = frame.assign(source_width=[512, np.nan], source_height=[768, np.nan], source_bytes=[123_456_789_012, np.nan])
    expected = [("PNG", 512, 768, 123_456_789_012), (None, None, None, None)]
    rows = [
        {"path": "0.png", "label": 0, "source_format": "PNG", "source_width": 512, "source_height": "768", "source_bytes": 123_456_789_012},
        {"path": "1.png", "label": 1, "source_width": None, "source_height": "nan"},
    ]
    assert "512.0" in frame.to_csv(index=False)  # as pandas writes it
    for path in (write(frame.to_csv(index=False)), write(frame, "m.parquet"), write("\n".join(map(json.dumps, rows)), "m.jsonl")):
        found = told(path, tmp_path)
        assert found == expected
        assert all(type(value) is int for value in found[0][1:])
    assert told(write("path,label\n0.png,0\n"), tmp_path) == [(None, None, None, None)]


@pytest.mark.parametrize("value", ["0", "-3", "2.5", "1e3", "inf", "x", "٣", "1_000", "0x10", "9" * 16, "9" * 5000, "=1+1", "0.0"])
@pytest.mark.parametrize("column", COLUMNS[1:])
def test_what_is_no_positive_whole_number_is_refused_with_its_line(write, tmp_path, column, value):
    with pytest.raises(
        DataError, match=rf"line 3: the {column} .* is not a positive whole number\. Correct the row, or leave the cell empty"
    ):
        told(write(f"path,label,{column}\n0.png,0,7\n1.png,1,{value}\n"), tmp_path)


@pytest.mark.parametrize("value", [True, False, 0, -1, 2.5, [3], {}, 1e300])
def test_values_of_other_types_are_refused_too(write, tmp_path, value):
    with pytest.raises(DataError, match=r"line 1: the source_width .* is not a positive whole number"):
        told(write(json.dumps({"path": "0.png", "label": 0, "source_width": value}), "m.jsonl"), tmp_path)


def test_a_column_that_comes_twice_is_refused(write, tmp_path):
    with pytest.raises(DataError, match="has the column source_bytes twice"):
        told(write("path,label,source_bytes,source_bytes\n0.png,0,1,2\n"), tmp_path)


def test_the_generated_fraction_is_read(write, tmp_path):
    def fractions(content, name="f.csv"):
        return [record.generated_fraction for record in ManifestSource(write(content, name)).records(tmp_path / "cache")]

    assert fractions("path,label,generated_fraction\n0.png,0,\n1.png,1,0.25\n") == [None, 0.25]
    assert fractions("path,label\n0.png,0\n1.png,1\n") == [None, None]
    lines = [{"path": "0.png", "label": 0, "generated_fraction": 0}, {"path": "1.png", "label": 1, "generated_fraction": 1}]
    assert fractions("\n".join(map(json.dumps, lines)), "f.jsonl") == [0.0, 1.0]
    assert fractions(pd.DataFrame(lines).assign(generated_fraction=[np.nan, 0.5]), "f.parquet") == [None, 0.5]


@pytest.mark.parametrize("cell", ["half", "1.5", "-0.1", "inf", "true"])
def test_a_generated_fraction_that_is_none_is_told(write, tmp_path, cell):
    with pytest.raises(DataError, match=r"line 2: the generated_fraction .* is not a number from 0 to 1"):
        ManifestSource(write(f"path,label,generated_fraction\n0.png,1,{cell}\n")).records(tmp_path / "cache")
