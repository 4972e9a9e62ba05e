import inspect
import json
import os
import zlib
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.errors import DataError
from datamodules.sources.base import Source, safe_name
from datamodules.sources.folder import FolderSource
from datamodules.sources.manifest import ManifestSource


def image(path, seed=None):
    """A tiny picture whose content follows from its path, unless a seed is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = zlib.crc32(str(path).encode()) if seed is None else seed
    form = {"jpg": "JPEG", "webp": "WEBP"}.get(path.suffix[1:].lower(), "PNG")
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(path, form)
    return path


def tree(root, text):
    for name in text.split():
        image(root / name)
    return root


def records(source, tmp_path):
    return source.records(tmp_path / "cache")


def found(source, tmp_path):
    """path -> (label, dataset, generator, split) below the source's root."""
    rows = records(source, tmp_path)
    return {os.path.relpath(r.path, source.root): (r.label, r.dataset, r.generator, r.split) for r in rows}


@pytest.fixture
def manifest(tmp_path):
    """Writes a table beside five images and gives its path."""
    for i in range(5):
        image(tmp_path / "set" / f"{i}.png", seed=i)

    def write(content, name="manifest.csv"):
        path = tmp_path / "set" / name
        if isinstance(content, pd.DataFrame):
            content.to_parquet(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")
        return str(path)

    return write


ROWS = [
    {"path": "0.png", "label": 0, "generator": "ffhq", "group": "g", "unused": 1},
    {"path": "1.png", "label": 1, "generator": "stylegan2", "family": "gan", "split": "valid", "caption": "a, b\nc", "pair": "p"},
    {"path": "sub/../2.png", "label": 1, "dataset": "other", "caption_source": "prompt"},
]


def test_manifest_formats_agree(tmp_path, manifest):
    table = pd.DataFrame(ROWS)
    paths = [
        manifest(table.to_csv(index=False)),
        manifest(table, "manifest.parquet"),
        manifest("\n".join(json.dumps(row) for row in ROWS) + "\n\n", "manifest.jsonl"),
        manifest(table.to_json(orient="records", lines=True), "manifest.ndjson"),
        manifest("\ufeff" + table.to_csv(index=False).replace("\n", "\r\n").replace("b\r\nc", "b\nc"), "index.csv"),
    ]
    results = [records(ManifestSource(path, dataset="faces"), tmp_path) for path in paths]
    assert all(result == results[0] for result in results)
    real, fake, other = results[0]
    assert (real.label, real.dataset, real.generator, real.family, real.group, real.split) == (0, "faces", "ffhq", "real", "g", None)
    assert (fake.family, fake.split, fake.caption, fake.pair) == ("gan", "val", "a, b\nc", "p")
    assert (other.dataset, other.generator, other.family, other.caption_source) == ("other", "unknown", "unknown", "prompt")
    assert (other.path, other.group) == (str(tmp_path / "set" / "2.png"), other.key)
    assert ManifestSource(paths[0]).entries(tmp_path).__next__().dataset == "set"


LABELS = [("0", 0), ("1", 1), ("real", 0), (" Fake ", 1), ("1.0", 1), ("REAL", 0), (True, 1), (0, 0), (1.0, 1)]


@pytest.mark.parametrize(("value", "label"), LABELS)
def test_manifest_labels(tmp_path, manifest, value, label):
    for path in (manifest(f"path,label\n0.png,{value}\n"), manifest(json.dumps({"path": "0.png", "label": value}), "m.jsonl")):
        if not (value is True and path.endswith("csv")):
            assert [(r.label, r.generator) for r in records(ManifestSource(path), tmp_path)] == [(label, ("real", "unknown")[label])]


@pytest.mark.parametrize("name", ["train", "val", "valid", "validation", "test", "TEST"])
def test_manifest_split_names(tmp_path, manifest, name):
    expected = {"valid": "val", "validation": "val"}.get(name, name.lower())
    assert [r.split for r in records(ManifestSource(manifest(f"path,label,split\n0.png,1,{name}\n")), tmp_path)] == [expected]


def test_manifest_missing_cells(tmp_path, manifest):
    cells = {"group": [3, None], "caption": [np.nan, "x"], "generator": ["nan", None], "split": ["", None]}
    table = pd.DataFrame({"path": ["0.png", "1.png"], "label": [0.0, 1.0], **cells})
    for path, group in ((manifest(table, "m.parquet"), "3"), (manifest(table.to_csv(index=False)), "3.0")):
        first, second = records(ManifestSource(path), tmp_path)
        assert (first.group, first.caption, first.generator, first.split) == (group, None, "real", None)
        assert (second.group, second.caption, second.generator, second.split) == (second.key, "x", "unknown", None)


BAD_ROWS = [
    ("path,label\n0.png,0\n1.png,2\n", "line 3: the label '2' is not one of"),
    ("path,label\n0.png,\n", "line 2: the label '' is not one of"),
    ("path,label\n0.png,nan\n", "line 2: the label 'nan'"),
    ("path,label\n,0\n", "line 2: the path is missing"),
    ("path,label,split\n0.png,0,dev set\n", "line 2: the split 'dev set' is not one of train, val"),
    ('path,label,caption\n0.png,0,"a\nb"\n1.png,0,c,d\n', "line 4: 4 cells for 3 columns"),
    ("path,label\n0.png\n", "line 2: 1 cells for 2 columns"),
    ('path,label\n"0.png,0\n', "not a row of a CSV file"),
    ("path;label\n0.png;0\n", "has no column path, label. Its columns are 'path;label'"),
    ("file,label\n0.png,0\n", "has no column path"),
    ("path,label,path\n0.png,0,1.png\n", "has the column path twice"),
    ("", "has no column path, label"),
    ("path,label\n", "names none"),
    ("path,label\n" + "x" * 2_000_000, "longer than 1000000 characters"),
    (b"path,label\n\xff\xfe.png,0\n", "not UTF-8"),
    ("path,label\n0.png,0\n".encode("utf-16"), "save it as UTF-8"),
    (bytes(range(256)) * 100, "save it as UTF-8"),
]


@pytest.mark.parametrize(("content", "message"), BAD_ROWS)
def test_manifest_errors_name_the_line(tmp_path, manifest, content, message):
    with pytest.raises(DataError) as caught:
        records(ManifestSource(manifest(content)), tmp_path)
    assert message in str(caught.value)
    assert "manifest.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: '[1]' is not an object"),
        ("[" * 100_000, "line 2: not JSON"),
        ('{"path": ["0.png"], "label": 0}', "line 2: the path ['0.png'] is not text"),
        ('{"path": "0.png", "label": {}}', "line 2: the label {} is not one of"),
        ('{"path": "\\ud800", "label": 0}', "line 2: the path '\\ud800' is not text"),
        ('{"path": "a\\u0000b", "label": 0}', "line 2: the path 'a\\x00b' has a null byte"),
        ('{"label": 0}', "line 2: the path is missing"),
    ],
)
def test_jsonl_errors_name_the_line(tmp_path, manifest, line, message):
    with pytest.raises(DataError) as caught:
        records(ManifestSource(manifest('{"path": "0.png", "label": 0}\n' + line + "\n", "m.jsonl")), tmp_path)
    assert message in str(caught.value)


def test_parquet_errors(tmp_path, manifest):
    for content, message in [
        (b"PAR1" + os.urandom(500), "not a Parquet file"),
        (b"PAR1" + bytes(100) + b"PAR1", "not a Parquet file"),
        (pd.DataFrame({"path": ["0.png"]}), "has no column label"),
        (pd.DataFrame({"path": ["0.png", "1.png"], "label": [0, 7]}), "row 2: the label 7"),
        (pd.DataFrame({"path": [["0.png"]], "label": [0]}), "row 1: the path"),
    ]:
        with pytest.raises(DataError, match=message):
            records(ManifestSource(manifest(content, "m.parquet")), tmp_path)


def test_manifest_that_is_none(tmp_path, manifest):
    os.mkfifo(tmp_path / "pipe.csv")
    for path, message in [
        (tmp_path / "missing.csv", "no such file"),
        (tmp_path, "is a folder"),
        (manifest("", "manifest.xlsx"), r"ends in '\.xlsx'"),
        (tmp_path / "pipe.csv", "not a regular file"),
    ]:
        with pytest.raises(DataError, match=message):
            records(ManifestSource(str(path)), tmp_path)


def test_two_gigabytes_of_nothing(tmp_path):
    for name in ("m.csv", "m.jsonl", "m.parquet"):
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(2**31)
        with pytest.raises(DataError):
            records(ManifestSource(str(path)), tmp_path)


def test_hostile_manifest_does_not_leave_its_folder(tmp_path, manifest):
    secret = image(tmp_path / "secret.png")
    folder = tmp_path / "set"
    os.symlink(secret, folder / "link.png")
    os.symlink(tmp_path, folder / "up")
    (folder / "sub").mkdir()
    for escape in (str(secret), "../secret.png", "sub/../../secret.png", "link.png", "up/secret.png", "/etc/passwd", ".."):
        path = manifest(f"path,label\n0.png,0\n{escape},1\n")
        with pytest.raises(DataError, match=r"line 3: the path .* leads out of .* allow_outside"):
            records(ManifestSource(path), tmp_path)
    for escape in (str(secret), "../secret.png", "link.png", "up/secret.png"):
        rows = records(ManifestSource(manifest(f"path,label\n{escape},1\n"), allow_outside=True), tmp_path)
        assert os.path.samefile(rows[0].path, secret)
    assert len(records(ManifestSource(manifest(f"path,label\n{folder}/0.png,1\n")), tmp_path)) == 1


def test_manifest_folder_that_is_a_link(tmp_path, manifest):
    manifest("path,label\n0.png,0\n")
    os.symlink(tmp_path / "set", tmp_path / "linked")
    assert len(records(ManifestSource(str(tmp_path / "linked" / "manifest.csv")), tmp_path)) == 1


def test_manifest_named_by_a_path_with_dots(tmp_path, manifest, monkeypatch):
    manifest("path,label\n0.png,0\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(records(ManifestSource("../set/manifest.csv"), tmp_path)) == 1


def test_row_01_missing_and_empty_files_are_recorded(tmp_path, manifest, caplog):
    (tmp_path / "set" / "empty.png").write_bytes(b"")
    os.symlink("loop.png", tmp_path / "set" / "loop.png")
    source = ManifestSource(manifest("path,label\n0.png,0\nmissing.png,0\nempty.png,1\nloop.png,1\n1.png,1\n"))
    assert [os.path.basename(r.path) for r in records(source, tmp_path)] == ["0.png", "1.png"]
    reasons = {os.path.basename(failure.where): failure.reason for failure in source.failures}
    assert set(reasons) == {"missing.png", "empty.png", "loop.png"}
    assert "no such file" in reasons["missing.png"]
    assert reasons["empty.png"] == "the file is empty"
    assert "3 images are left out" in caplog.text
    records(source, tmp_path)
    assert len(source.failures) == 3


def test_row_36_nothing_left(tmp_path, manifest):
    with pytest.raises(DataError, match=r"No image is left of 1.*missing\.png: no such file"):
        records(ManifestSource(manifest("path,label\nmissing.png,0\n")), tmp_path)


def test_row_12_same_names_and_dots(tmp_path):
    for i, name in enumerate(["real/a/img.v2.png", "real/b/img.v2.png", "fake/a/img.v2.png", "fake/a/img.v3.png"]):
        image(tmp_path / "set" / name, seed=i)
    rows = records(FolderSource(str(tmp_path / "set")), tmp_path)
    keys = [row.key for row in rows]
    assert len(set(keys)) == 4
    assert all(len(key) == 32 and "." not in key for key in keys)


def test_equal_contents_get_ordinals_and_share_a_group(tmp_path, caplog):
    for name in ("real/a.png", "real/b.png", "fake/g/c.png", "real/d.png"):
        image(tmp_path / "set" / name, seed=int(name == "real/d.png"))
    rows = records(FolderSource(str(tmp_path / "set")), tmp_path)
    digest = rows[0].content_hash
    assert [row.key for row in rows if row.content_hash == digest] == [digest, f"{digest}-1", f"{digest}-2"]
    assert {row.group for row in rows if row.content_hash == digest} == {digest}
    assert "1 files are both a real and a generated image" in caplog.text


def test_keys_do_not_depend_on_the_place(tmp_path):
    for root in ("one", "two"):
        image(tmp_path / root / "real" / "a.png", seed=1)
        image(tmp_path / root / "fake" / "b.png", seed=2)
    one, two = (records(FolderSource(str(tmp_path / root), dataset="d"), tmp_path) for root in ("one", "two"))
    assert [(r.key, r.group, r.dataset) for r in one] == [(r.key, r.group, r.dataset) for r in two]


# A line an image: path, label, data set, generator, split.
LAYOUTS = [
    """real/1.png 0 set real -
    real/ffhq/2.png 0 set ffhq -
    fake/3.png 1 set unknown -
    fake/sd15/4.png 1 set sd15 -
    fake/sd15/cats/5.png 1 set sd15 -""",
    """train/Real/1.jpg 0 set real train
    train/Fake/gan/2.jpg 1 set gan train
    validation/real/3.png 0 set real val
    test/fake/gan/4.webp 1 set gan test""",
    """midjourney/real/1.png 0 set/midjourney real -
    midjourney/fake/2.png 1 set/midjourney midjourney -""",
    """0_real/1.png 0 set real -
    1_fake/2.png 1 set set -""",
    # ForenSynths has a class of pictures called train.
    """test/progan/train/0_real/1.png 0 set/progan real test
    test/progan/cat/1_fake/2.png 1 set/progan progan test
    test/biggan/1_fake/3.png 1 set/biggan biggan test
    train/progan/car/0_real/4.png 0 set/progan real train""",
    """ADM/train/ai/1.PNG 1 set/ADM ADM train
    ADM/train/nature/2.JPEG 0 set/ADM real train
    ADM/val/ai/3.png 1 set/ADM ADM val
    VQDM/val/nature/4.png 0 set/VQDM real val""",
    """real/1.png 0 set real -
    stylegan2/2.png 1 set stylegan2 -
    sd15/a/b/3.png 1 set sd15 -""",
    """train/real/1.png 0 set real train
    train/sd15/2.png 1 set sd15 train
    test/newer/3.png 1 set newer test
    test/real/nature/4.png 0 set real test""",
]


@pytest.mark.parametrize("text", LAYOUTS)
def test_folder_layouts(tmp_path, text):
    lines = [line.split() for line in text.splitlines()]
    source = FolderSource(str(tree(tmp_path / "set", " ".join(line[0] for line in lines))))
    assert found(source, tmp_path) == {
        path: (int(label), dataset, generator, None if split == "-" else split) for path, label, dataset, generator, split in lines
    }
    assert source.failures == []


def test_folder_with_named_reals(tmp_path):
    root = tree(tmp_path / "set", "faces/ffhq/1.png faces/stylegan2/2.png scenes/real/3.png scenes/sd/test/4.png")
    assert found(FolderSource(str(root), dataset="d", reals=["FFHQ"]), tmp_path) == {
        "faces/ffhq/1.png": (0, "d/faces", "ffhq", None),
        "faces/stylegan2/2.png": (1, "d/faces", "stylegan2", None),
        "scenes/real/3.png": (0, "d/scenes", "real", None),
        "scenes/sd/test/4.png": (1, "d/scenes", "sd", "test"),
    }
    with pytest.raises(DataError, match="No folder is called celeba"):
        records(FolderSource(str(root), reals=["ffhq", "celeba"]), tmp_path)


def test_folder_not_recognised(tmp_path):
    root = tree(tmp_path / "set", "stylegan2/1.png sd15/2.png 3.png")
    with pytest.raises(DataError) as caught:
        records(FolderSource(str(root)), tmp_path)
    for part in ("is not recognised", "images without a folder, sd15/, stylegan2/", "real/ and fake/", "ManifestSource"):
        assert part in str(caught.value)


def test_folder_that_contradicts_itself(tmp_path):
    root = tree(tmp_path / "set", "nature/0_real/1.png nature/1_fake/2.png")
    with pytest.raises(DataError, match="of real and of generated images"):
        records(FolderSource(str(root)), tmp_path)


def test_folder_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, message in [("missing", "does not exist"), ("file", "is a file"), ("empty", "no images")]:
        with pytest.raises(DataError, match=message):
            records(FolderSource(str(tmp_path / name)), tmp_path)


def test_what_lies_about_in_folders(tmp_path):
    root = tree(tmp_path / "set", "real/1.png fake/2.png readme/3.png")
    for name in ("fake/notes.txt", "real/.hidden.png", "real/4.avif", ".git/5.png"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    source = FolderSource(str(root))
    assert set(found(source, tmp_path)) == {"real/1.png", "fake/2.png"}
    reasons = {os.path.basename(failure.where): failure.reason for failure in source.failures}
    assert reasons == {"3.png": "it lies in no folder that says whether it is real or generated", "4.avif": ".avif files are not read"}


def test_row_11_unicode_spaces_long_paths_and_loops(tmp_path):
    root = tmp_path / "my set é"
    deep = "/".join(["d" * 100] * 6)
    for name in ("real/größe 画像 🙂.png", "real/ a b .v2.png", f"fake/{deep}/{'e' * 200}.png"):
        image(root / name)
    os.symlink(root, root / "fake" / "loop")
    os.symlink("self.png", root / "fake" / "self.png")
    os.symlink("self", root / "fake" / "self")
    with open(os.fsencode(root / "fake") + b"/\xff.png", "wb") as file:
        file.write(b"x")
    source = FolderSource(str(root))
    assert len(records(source, tmp_path)) == 3
    reasons = sorted(failure.reason for failure in source.failures)
    assert len(reasons) == 3
    assert "a link to a folder that was read already" in reasons
    assert any("UTF-8" in reason for reason in reasons)
    assert any("symbolic links" in reason for reason in reasons)
    assert source.name.isascii()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_row_11_unreadable(tmp_path):
    root = tree(tmp_path / "set", "real/1.png fake/2.png fake/3.png")
    (root / "fake" / "3.png").chmod(0)
    source = FolderSource(str(root))
    assert (len(records(source, tmp_path)), [failure.reason for failure in source.failures]) == (2, ["permission denied"])


def test_records_are_the_same_every_time(tmp_path):
    names = [f"{kind}/{i}.png" for i in range(10) for kind in ("real", "fake")]
    root = tree(tmp_path / "set", " ".join(names[::-1]))
    first = records(FolderSource(str(root)), tmp_path)
    assert first == records(FolderSource(str(root)), tmp_path)
    assert [r.path for r in first] == sorted(r.path for r in first)
    assert Counter(r.label for r in first) == {0: 10, 1: 10}


@pytest.mark.parametrize("source", [ManifestSource("m.csv", "d", True), FolderSource("r", "d", ["x"])])
def test_settings_can_be_read_back(source):
    names = [name for name in inspect.signature(type(source).__init__).parameters if name != "self"]
    again = type(source)(**{name: getattr(source, name) for name in names})
    assert {name: getattr(again, name) for name in names} == {name: getattr(source, name) for name in names}
    assert isinstance(source, Source)


def test_safe_names():
    assert safe_name("faces") == "faces"
    names = [safe_name(text) for text in ("synris/dalle3", "synris-dalle3", "Faces", "ü", "..", "", "x" * 300, "x" * 301)]
    assert len(set(names)) == len(names)
    assert all(0 < len(name) <= 40 and name.isascii() and "/" not in name and not name.startswith(".") for name in names)
