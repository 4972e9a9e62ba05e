import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules import hashing
from datamodules.errors import DataError
from datamodules.hashing import ContentHashes, hash_tree, open_regular, walk_files

ROOT = Path(__file__).parents[2]
OLD = 1_600_000_000_000_000_000  # ns: long enough ago to be remembered


def write(path, content, mtime_ns=OLD):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / "data" / f"{i:03}", bytes([i]) * i) for i in range(200)]


def expected(files):
    return [digest(bytes([i]) * i) for i in range(len(files))]


def test_hashes_in_the_order_of_the_paths(tmp_path, files):
    results = ContentHashes(tmp_path / "memo").hash_files(files)
    assert [r.digest for r in results] == expected(files)
    assert [r.size for r in results] == list(range(200))
    assert [r.digest for r in ContentHashes(None).hash_files(files[::-1])] == expected(files)[::-1]


def test_remembered_by_path_size_and_time(tmp_path):
    path = write(tmp_path / "a", b"one")
    memo = tmp_path / "cache" / "memo"
    ContentHashes(memo).hash_files([path])
    write(path, b"two")
    assert ContentHashes(memo).hash_files([path])[0].digest == digest(b"one"), "the same size and time: not read again"
    write(path, b"two", OLD + 1)
    assert ContentHashes(memo).hash_files([path])[0].digest == digest(b"two")
    write(path, b"three", OLD + 1)
    assert ContentHashes(memo).hash_files([path])[0].digest == digest(b"three")
    assert ContentHashes(memo).hash_files([path])[0] == (digest(b"three"), 5, "")


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "_SETTLED_NS", 600 * 10**9)  # what "just" means, on a slow machine
    path = tmp_path / "a"
    path.write_bytes(b"one")
    stamp = path.stat().st_mtime_ns
    hashes = ContentHashes(tmp_path / "memo")
    hashes.hash_files([path])
    write(path, b"two", stamp)
    assert hashes.hash_files([path])[0].digest == digest(b"two")


@pytest.mark.parametrize("damage", ["cut", "flip", "garbage", "empty", "prefix"])
def test_corrupt_memo_is_rebuilt(tmp_path, files, damage):
    memo = tmp_path / "memo"
    ContentHashes(memo).hash_files(files)
    content = memo.read_bytes()
    broken = {
        "cut": content[: len(content) // 2],
        "flip": bytes(b ^ (i % 97 == 0) for i, b in enumerate(content)),
        "garbage": os.urandom(5000),
        "empty": b"",
        "prefix": b"[" * 100_000 + b"\n" + content,
    }[damage]
    memo.write_bytes(broken)
    assert [r.digest for r in ContentHashes(memo).hash_files(files)] == expected(files)
    for path in files:
        write(path, path.read_bytes()[::-1])
    assert [r.digest for r in ContentHashes(memo).hash_files(files)] == expected(files)
    assert len(ContentHashes(memo)._load([str(path) for path in files])) == len(files)


def test_a_flipped_digit_of_a_hash_is_noticed(tmp_path):
    path = write(tmp_path / "a", b"one")
    memo = tmp_path / "memo"
    ContentHashes(memo).hash_files([path])
    good = digest(b"one")
    memo.write_text(memo.read_text().replace(good, ("0" if good[0] != "0" else "1") + good[1:]))
    assert ContentHashes(memo).hash_files([path])[0].digest == good


def test_two_processes_share_a_memo(tmp_path, files):
    memo = tmp_path / "memo"
    code = (
        "import sys; from pathlib import Path; from datamodules.hashing import ContentHashes\n"
        "files = sorted(Path(sys.argv[1]).iterdir())\n"
        "for start in range(0, 200, 5): ContentHashes(Path(sys.argv[2])).hash_files(files[start:start + 5])"
    )
    command = [sys.executable, "-c", code, str(files[0].parent), str(memo)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    known = ContentHashes(memo)._load([str(path) for path in files])
    assert [known[str(path)][1] for path in files] == expected(files)


def test_failures_have_a_reason_and_stop_nothing(tmp_path):
    good = write(tmp_path / "good", b"x")
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    paths = [good, tmp_path / "missing", tmp_path / "loop", tmp_path / "pipe", tmp_path, tmp_path / "a\0b"]
    results = ContentHashes(tmp_path / "memo").hash_files(paths)
    assert [bool(r.digest) for r in results] == [True, *[False] * 5]
    assert "no such file" in results[1].reason
    assert "symbolic links" in results[2].reason
    assert results[3].reason == results[4].reason == "not a regular file"


def test_a_memo_that_cannot_be_written_is_done_without(tmp_path, caplog):
    path = write(tmp_path / "a", b"one")
    (tmp_path / "file").write_text("")
    assert ContentHashes(tmp_path / "file" / "memo").hash_files([path])[0].digest == digest(b"one")
    assert "cannot be remembered" in caplog.text
    assert ContentHashes(tmp_path).hash_files([path])[0].digest == digest(b"one")


def test_open_regular_refuses_devices():
    with pytest.raises(OSError, match="not a regular file"):
        open_regular("/dev/null")


def test_walk_is_ordered_and_survives_loops(tmp_path):
    for name in ("b/2", "b/1", "a/z", "c", ".hidden/x", "a/.hidden"):
        write(tmp_path / name, b"")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    os.symlink(tmp_path / "self", tmp_path / "self")
    problems = []
    found = [os.path.relpath(path, tmp_path) for path in walk_files(tmp_path, lambda path, reason: problems.append((path, reason)))]
    assert found == ["c", "self", "a/z", "b/1", "b/2"]
    assert problems == [(str(tmp_path / "a" / "loop"), "a link to a folder that was read already")]


def test_tree_depends_on_names_and_contents_only(tmp_path):
    for root in ("one", "two"):
        write(tmp_path / root / "unet" / "model.safetensors", b"weights", OLD + len(root))
        write(tmp_path / root / "index.json", b"{}")
    first = hash_tree(tmp_path / "one")
    assert hash_tree(tmp_path / "two") == first
    write(tmp_path / "two" / "README.md", b"a card")
    write(tmp_path / "two" / ".cache" / "lock", b"")
    assert hash_tree(tmp_path / "two") == first
    assert hash_tree(tmp_path / "two", leave_out=()) != first
    write(tmp_path / "two" / "index.json", b"[]")
    changed = hash_tree(tmp_path / "two", ContentHashes(tmp_path / "memo"))
    (tmp_path / "two" / "index.json").rename(tmp_path / "two" / "other.json")
    assert len({first, changed, hash_tree(tmp_path / "two")}) == 3


def test_tree_follows_links_and_takes_single_files(tmp_path):
    write(tmp_path / "blobs" / "abc", b"weights")
    (tmp_path / "snapshot").mkdir()
    os.symlink("../blobs/abc", tmp_path / "snapshot" / "model.safetensors")
    single = write(tmp_path / "model.safetensors", b"weights")
    assert hash_tree(tmp_path / "snapshot") == hash_tree(single)


def test_tree_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(DataError, match="check the path"):
            hash_tree(path)
    os.symlink("nothing", tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="no such file"):
        hash_tree(tmp_path)
