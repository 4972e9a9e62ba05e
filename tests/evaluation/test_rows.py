import csv
import json
import os
import subprocess
import sys

import pandas as pd
import pytest

from evaluation.rows import RowsError, check_new, one_line, open_rows

COLUMNS = ["key", "path", "score", "verdict"]
NASTY = [
    "plain.jpg",
    "new\nline.jpg",
    "return\rtab\t.jpg",
    'quo"te, comma.jpg',
    "\x1b[31mred\x07.jpg",
    "\u202egpj.exe",
    os.fsdecode(b"latin\xe9.jpg"),
    "=cmd.jpg",
    "naïve 写真\u3000\u202f🏴‍☠️.jpg",
    "null\0byte",
]


def rows_of(paths):
    return [{"key": None, "path": path, "score": 1 / 3 + i, "verdict": "real"} for i, path in enumerate(paths)]


def write(path, rows, mode="new", form=None, columns=COLUMNS):
    writer = open_rows(path, form or path.suffix[1:], columns, mode)
    before = list(writer.written()) if mode == "resume" else []
    writer.write(rows)
    writer.close()
    return before


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_names_of_every_kind_break_no_table(tmp_path, form):
    path = tmp_path / f"a.{form}"
    write(path, rows_of(NASTY))
    frame = {"csv": pd.read_csv, "jsonl": lambda p: pd.read_json(p, lines=True), "parquet": pd.read_parquet}[form](path)
    assert list(frame.path) == [one_line(name) for name in NASTY]
    assert list(frame.score) == pytest.approx([1 / 3 + i for i in range(len(NASTY))], abs=1e-9)
    assert frame.key.isna().all()
    if form != "parquet":
        text = path.read_bytes().decode("utf-8")  # strictly
        assert len(text.splitlines()) == len(NASTY) + (form == "csv")
        assert "\x1b" not in text


def test_one_line_says_what_was_there():
    assert one_line("a\n\x1b[2J\udce9\u202e\0") == r"a\x0a\x1b[2J\xe9\u202e\x00"
    assert one_line(NASTY[8]) == NASTY[8]


def test_exact_numbers_and_nulls(tmp_path):
    rows = [{"key": "k", "path": "p", "score": 0.1 + 0.2, "verdict": None}, {"key": "k", "path": "q", "score": float("nan")}]
    write(tmp_path / "a.csv", rows)
    write(tmp_path / "a.jsonl", rows)
    assert list(csv.reader((tmp_path / "a.csv").open())) == [COLUMNS, ["k", "p", "0.30000000000000004", ""], ["k", "q", "", ""]]
    assert [json.loads(line)["score"] for line in (tmp_path / "a.jsonl").open()] == [0.1 + 0.2, None]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_are_in_the_file_as_soon_as_they_are_written(tmp_path, form):
    path = tmp_path / f"a.{form}"
    writer = open_rows(path, form, COLUMNS, "new")
    writer.write(rows_of(["a", "b"]))
    assert path.read_text().count("\n") == 2 + (form == "csv")
    writer.close()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_stopped_run_goes_on_without_the_line_that_was_cut(tmp_path, form, cut):
    path = tmp_path / f"a.{form}"
    write(path, rows_of(["a", "b\n", "c"]))
    path.write_bytes(path.read_bytes()[:-cut])
    kept = write(path, rows_of(["c"]), "resume")
    assert [row["path"] for row in kept] == ["a", r"b\x0a"] if cut < 30 else ["a"]
    again = list(open_rows(path, form, COLUMNS, "resume").written())
    assert [row["path"] for row in again] == [row["path"] for row in kept] + ["c"]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_going_on_with_nothing_is_starting(tmp_path, form):
    path = tmp_path / f"a.{form}"
    assert write(path, rows_of(["a"]), "resume") == []
    assert [row["path"] for row in write(path, [], "resume")] == ["a"]


def test_what_exists_is_refused_or_replaced(tmp_path):
    path = tmp_path / "a.csv"
    path.touch()
    write(path, rows_of(["a", "b"]))  # nothing is lost of an empty file
    with pytest.raises(RowsError, match=r"a\.csv exists: --resume"):
        write(path, rows_of(["c"]))
    with pytest.raises(RowsError, match="exists"):
        check_new(path, "new")
    write(path, rows_of(["d"]), "overwrite")
    assert list(pd.read_csv(path).path) == ["d"]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("csv", "path,label\na,1\n"),
        ("csv", "key,path,score,verdict\na,b\nc,d,1,real\n"),
        ("csv", "key,path,score,verdict\n\xff,b,1,real\n"),
        ("jsonl", "[1]\n"),
        ("jsonl", "{broken\n"),
        ("jsonl", '{"path": "a"}\n'),
    ],
)
def test_another_table_is_not_gone_on_with(tmp_path, form, text):
    path = tmp_path / f"a.{form}"
    path.write_bytes(text.encode("latin-1"))
    before = path.read_bytes()
    with pytest.raises(RowsError, match=r"name another --output"):
        write(path, rows_of(["c"]), "resume")
    assert path.read_bytes() == before


def test_two_writers_of_one_file(tmp_path):
    first = open_rows(tmp_path / "a.csv", "csv", COLUMNS, "new")
    with pytest.raises(RowsError, match="another process"):
        open_rows(tmp_path / "a.csv", "csv", COLUMNS, "resume")
    first.close()


def test_parquet_appears_whole(tmp_path):
    writer = open_rows(tmp_path / "a.parquet", "parquet", [*COLUMNS, "probability"], "new")
    writer.write(rows_of(["a"]))
    assert list(tmp_path.iterdir()) == []
    writer.write(rows_of(["b"]))
    writer.close()
    frame = pd.read_parquet(tmp_path / "a.parquet")
    assert list(frame.path) == ["a", "b"]
    assert frame.probability.dtype == float


def test_row_16_a_full_disk_is_one_sentence_and_what_was_written_stays(tmp_path):
    path = tmp_path / "a.csv"
    code = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom evaluation.rows import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        f"writer = open_rows(Path({str(path)!r}), 'csv', ['path', 'score'], 'new')\n"
        "try:\n  [writer.write([{'path': 'p' * 20 + str(i), 'score': 0.5}]) for i in range(1000)]\n"
        "except RowsError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "cannot be written (File too large)" in done.stdout, done.stderr
    writer = open_rows(path, "csv", ["path", "score"], "resume")
    kept = list(writer.written())
    assert len(kept) > 50
    assert path.stat().st_size < 2000


@pytest.mark.parametrize("mode", ["new", "overwrite"])
def test_a_pipe_can_be_written(tmp_path, mode):
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True)
    write(tmp_path / "pipe", rows_of(["a"]), mode, form="csv")
    assert reader.communicate(timeout=60)[0].count("\n") == 2
