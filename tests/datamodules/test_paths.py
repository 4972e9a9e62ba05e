import io
import os

import pytest

from datamodules.errors import DataError
from datamodules.paths import ImageList, read_names


@pytest.fixture
def tree(tmp_path):
    """photos/{a.jpg, b.PNG, c.heic, notes.txt, .hidden.jpg, deep/d.webp, .trash/e.jpg, folder.jpg/f.gif, loop -> photos}"""
    root = tmp_path / "photos"
    for name in ("a.jpg", "b.PNG", "c.heic", "notes.txt", ".hidden.jpg", "deep/d.webp", ".trash/e.jpg", "folder.jpg/f.gif"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "loop").symlink_to(root)
    (root / "deep" / "up").symlink_to(root)
    return root


def found(*names, root):
    images = ImageList()
    for name in names:
        images.add_named(str(name))
    return [(os.path.relpath(image.path, root), image.reason) for chunk in images.chunks(2) for image in chunk], images


def test_a_folder_gives_its_images_once_although_links_loop(tree):
    rows, images = found(tree, root=tree)
    assert [path for path, reason in rows if not reason] == ["a.jpg", "b.PNG", "deep/d.webp", "folder.jpg/f.gif"]
    assert [path for path, reason in rows if reason] == ["c.heic"]
    assert images.passed_over == 1
    assert (len(images), images.readable) == (5, 4)


def test_what_is_named_twice_is_there_once(tree, monkeypatch):
    monkeypatch.chdir(tree)
    (tree / "deep" / "up").unlink()
    rows, _ = found("b.PNG", "deep", "./b.PNG", tree / "deep" / ".." / "b.PNG", "*.PNG", "deep/*.webp", root=tree)
    assert rows == [("b.PNG", ""), ("deep/d.webp", "")]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "folder.jpg/f.gif"]),
        ("**/*.webp", ["deep/d.webp"]),
        ("de*/**", ["deep/d.webp"]),
        ("**/*.jpg", ["a.jpg", "folder.jpg/f.gif"]),
        (".h*.jpg", [".hidden.jpg"]),
        ("n?tes.[t]xt", ["notes.txt"]),
    ],
)
def test_patterns(tree, pattern, expected):
    (tree / "deep" / "up").unlink()  # a pattern may name what a link leads to, under the link's name
    (tree / "loop").unlink()
    assert [path for path, reason in found(tree / pattern, root=tree)[0] if not reason] == expected


def test_a_pattern_ends_although_links_loop(tree):
    rows, _ = found(tree / "**" / "a.jpg", root=tree)
    assert rows == [("a.jpg", "")]


def test_a_file_whose_name_is_a_pattern(tree):
    (tree / "[a].jpg").touch()
    assert found(tree / "[a].jpg", root=tree)[0] == [("[a].jpg", "")]


def test_what_is_not_there_is_listed(tree):
    rows, images = found(tree / "no.jpg", tree / "*.bmp", root=tree)
    assert rows == [("no.jpg", "There is no such file."), ("*.bmp", "Nothing matches this pattern.")]
    assert images.readable == 0
    (tree / "self.jpg").symlink_to(tree / "self.jpg")  # there, though unreadable: the reader says why
    assert found(tree / "self.jpg", root=tree)[0] == [("self.jpg", "")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_listed(tree):
    (tree / "deep").chmod(0)
    assert ("deep", "The folder cannot be read: permission denied.") in found(tree, root=tree)[0]
    (tree / "deep").chmod(0o755)


def test_row_11_names_of_every_kind(tmp_path):
    names = [
        "naïve 写真.jpg",
        "with\nnewline.jpg",
        "-dash.jpg",
        'quo"te.jpg',
        os.fsdecode(b"latin\xe9.jpg"),
        "a" * 250 + ".jpg",
        "x.v2.jpg",
    ]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "self.jpg").symlink_to(tmp_path / "self.jpg")
    rows, _ = found(tmp_path, root=tmp_path)
    assert sorted(rows) == sorted([(name, "") for name in names] + [("self.jpg", "")])


@pytest.mark.parametrize(
    ("data", "separator", "expected"),
    [
        (b"a b\nc\r\n\n\xe9.jpg\nlast", b"\n", ["a b", "c", "\udce9.jpg", "last"]),
        (b"a\nb\0c\r\0", b"\0", ["a\nb", "c\r"]),
        (b"x" * 100_000 + b"\n" + b"y" * 70_000, b"\n", ["x" * 100_000, "y" * 70_000]),
        (b"", b"\n", []),
    ],
)
def test_lists_of_names(data, separator, expected):
    assert list(read_names(io.BytesIO(data), separator)) == expected


def test_a_list_may_name_folders_but_no_patterns(tree):
    (tree / "deep" / "up").unlink()
    images = ImageList()
    images.add_list(io.BytesIO(f"{tree}/deep\n{tree}/*.jpg\nbad\0name".encode()))
    [rows] = images.chunks(10)
    assert [bool(row.reason) for row in rows] == [False, True, True]


def test_captions_are_relative_to_their_table(tree):
    table = tree / "captions.csv"
    text = '\ufeffpath,caption\na.jpg,"a dog, asleep"\ndeep/d.webp,\nelsewhere.jpg,nothing\nlatin\udce9.jpg,été\n'
    table.write_bytes(text.encode("utf-8", "surrogateescape"))
    (tree / "latin\udce9.jpg").touch()
    images = ImageList()
    images.add_named(str(tree))
    assert images.add_captions(table) == 2
    assert [image.caption for chunk in images.chunks(9) for image in chunk if image.caption] == ["a dog, asleep", "été"]


@pytest.mark.parametrize("text", [None, "path,text\n", ""])
def test_captions_that_cannot_be_used(tree, text):
    table = tree / "captions.csv"
    if text is not None:
        table.write_text(text)
    with pytest.raises(DataError, match=r"captions\.csv.*path and caption"):
        ImageList().add_captions(table)


def test_what_a_table_has_is_left_out(tree):
    _, images = found(tree, root=tree)
    images.leave_out([str(tree / "a.jpg").upper(), "other"], str.upper)
    assert [os.path.basename(image.path) for chunk in images.chunks(9) for image in chunk if not image.reason] == [
        "b.PNG",
        "d.webp",
        "f.gif",
    ]
