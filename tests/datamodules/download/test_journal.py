"""The journal, and who may import what fetches."""

import ast
import errno
import os
from pathlib import Path

import pytest

from datamodules.download.journal import Journal
from datamodules.download.outcomes import Outcome


def test_a_row_that_is_not_written_as_a_whole_is_an_error(tmp_path, monkeypatch):
    """A disk that fills up takes a part of a row, and says nothing."""
    journal, write = Journal(tmp_path), os.write
    journal.add(Outcome("a", "http://a/", "arrived"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[:20]))
        with pytest.raises(OSError) as caught:
            journal.add(Outcome("b", "http://b/", "arrived"))
    assert caught.value.errno == errno.ENOSPC
    assert journal.find("b") is None
    journal.add(Outcome("c", "http://c/", "dead", "HTTP 404"))  # after room was made
    journal.close()
    again = Journal(tmp_path)
    assert again.damaged == 1
    assert [again.find(name) is not None for name in "abc"] == [True, False, True]
    assert again.find("c").reason == "HTTP 404"


def test_the_last_row_of_an_address_holds(tmp_path):
    journal = Journal(tmp_path)
    journal.add(Outcome("a", "http://a/", "dead"))
    journal.add(Outcome("a", "http://a/", "arrived", path="images/a.jpg"))
    assert (journal.find("a").status, journal.find("a").fresh) == ("arrived", True)
    journal.queue("b")
    journal.close()
    again = Journal(tmp_path)
    assert (again.find("a").path, again.find("a").fresh) == ("images/a.jpg", False)
    assert again.find("b") is None


@pytest.mark.parametrize(
    "line", [b"", b"x", b"\xff\xfe", b"[" * 50_000, b'{"id": 3, "url": "", "status": "arrived"}', b'{"evil": 1}', b"null"]
)
def test_foreign_lines_are_passed_over(tmp_path, line):
    import zlib

    (tmp_path / "journal.txt").write_bytes(line + b"\n" + b"%08x %s\n" % (zlib.crc32(line), line))
    journal = Journal(tmp_path)
    journal.add(Outcome("a", "http://a/", "arrived"))
    assert journal.find("a").status == "arrived"


def test_nothing_else_imports_what_fetches():
    """`train.py --help` must not wait for it."""
    slow = ("datamodules.download", "datamodules.sources.tars.transfer", "httpx", "httpcore")
    for path in [
        *Path().glob("*.py"),
        *(path for top in ("modules", "datamodules", "evaluation", "workflow") for path in Path(top).rglob("*.py")),
    ]:
        if path.parts[:2] == ("datamodules", "download") or path == Path("datamodules/sources/tars/transfer.py"):
            continue
        for node in ast.parse(path.read_text()).body:  # what a function imports waits for its call
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            assert not any(name.startswith(slow) for name in names), path
