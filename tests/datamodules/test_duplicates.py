"""Near-duplicates: copies are found, distinct images are not, and a memo that any number of processes may spoil."""

import io
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from datamodules.duplicates import MEMO, PerceptualHashes, check_near_duplicates, near_duplicates, perceptual_hash
from datamodules.errors import DataError
from datamodules.records import Record
from datamodules.sources.photographs import load, photographs


@pytest.fixture(scope="module")
def crops():
    """128-pixel crops of the built-in photographs that do not overlap."""
    found = []
    for photo in photographs("detector"):
        picture = load(photo)[0]
        for y in range(0, picture.shape[0] - 127, 128):
            found += [np.ascontiguousarray(picture[y : y + 128, x : x + 128]) for x in range(0, picture.shape[1] - 127, 128)]
    return found


def jpeg(pixels, quality=40):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resized(pixels):
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC).resize((128, 128), Image.Resampling.BICUBIC))


def brighter(pixels):
    return np.clip(pixels * 1.05, 0, 255).astype(np.uint8)


def cropped(pixels):
    return np.ascontiguousarray(pixels[1:-1, 1:-1])


def record(number, split, **fields):
    return Record(f"{number:032x}", number % 2, "d", "g", path=f"/images/{split}/{number}.png", split=split, **fields)


@pytest.mark.parametrize("change", [jpeg, resized, brighter, cropped])
def test_row_42_copies_are_found(crops, change):
    """Originals in training, all copies in the test; and every copy is paired with its own original."""
    hashes = {f"{i:032x}": perceptual_hash(pixels) for i, pixels in enumerate(crops)}
    hashes |= {f"{1000 + i:032x}": perceptual_hash(change(pixels)) for i, pixels in enumerate(crops)}
    records = [record(i, "train") for i in range(len(crops))] + [record(1000 + i, "test") for i in range(len(crops))]
    told_apart = sum(hashes[f"{i:032x}"] != "" for i in range(len(crops)))
    pairs = near_duplicates(hashes, records)
    assert told_apart > 30
    assert len(pairs) >= 0.9 * told_apart  # some crops of wood and grass are nearly flat
    assert all(int(later.key, 16) - int(earlier.key, 16) == 1000 for earlier, later in pairs)


def test_row_42_distinct_images_are_not(crops):
    hashes = {f"{i:032x}": perceptual_hash(pixels) for i, pixels in enumerate(crops)}
    records = [record(i, ("train", "val", "test")[i % 3]) for i in range(len(crops))]
    assert near_duplicates(hashes, records) == []


def test_flat_images_are_told_from_nothing():
    white, grey = np.full((64, 64, 3), 255, np.uint8), np.full((64, 64, 3), 128, np.uint8)
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    assert perceptual_hash(white) == perceptual_hash(grey) == ""
    assert perceptual_hash(np.ascontiguousarray(ramp)) != ""  # steep enough across
    assert near_duplicates({f"{i:032x}": "" for i in range(2)}, [record(0, "train"), record(1, "test")]) == []


def with_signs(rng, count):
    return [(rng.bytes(32) + rng.bytes(48)).hex() for _ in range(count)]


def flipped(text, positions, colour=0):
    raw = bytearray(bytes.fromhex(text))
    for position in positions:
        raw[position // 8] ^= 1 << position % 8
    raw[40] = raw[40] + colour if raw[40] + colour < 256 else raw[40] - colour
    return bytes(raw).hex()


def test_the_limits_are_met_exactly():
    """Against a comparison of all pairs, bit by bit."""
    rng = np.random.default_rng(3)
    for flips, colour, same in ((28, 0, True), (28, 20, True), (29, 0, False), (0, 21, False)):
        found = 0
        for text in with_signs(rng, 50):
            other = flipped(text, rng.permutation(256)[:flips], colour)
            found += len(near_duplicates({"0" * 32: text, "0" * 31 + "1": other}, [record(0, "train"), record(1, "val")]))
        assert found >= 48 if same else found == 0


def test_the_search_equals_a_comparison_of_all_pairs():
    rng = np.random.default_rng(5)
    texts = with_signs(rng, 300)
    texts += [flipped(texts[rng.integers(300)], rng.permutation(256)[: rng.integers(21)], int(rng.integers(21))) for _ in range(300)]
    hashes = {f"{i:032x}": text for i, text in enumerate(texts)}
    records = [record(i, ("train", "val", "test")[rng.integers(3)]) for i in range(600)]
    raw = np.array([list(bytes.fromhex(text)) for text in texts], dtype=np.int16)
    distances = np.bitwise_count((raw[:, None, :32] ^ raw[None, :, :32]).astype(np.uint8)).sum(2, dtype=int)
    colours = abs(raw[:, None, 32:] - raw[None, :, 32:]).max(2)
    rank = np.array([("train", "val", "test").index(r.split) for r in records])
    alike = (distances <= 28) & (colours <= 20) & (rank[:, None] < rank[None, :])
    sure = alike & (distances <= 20)
    pairs = near_duplicates(hashes, records)
    earlier = {int(first.key, 16) for first, _ in pairs}
    assert set(np.flatnonzero(sure.any(1))) <= earlier <= set(np.flatnonzero(alike.any(1)))
    assert all(alike[int(first.key, 16), int(second.key, 16)] for first, second in pairs)
    shuffled = [records[i] for i in rng.permutation(600)]
    assert {first.key for first, _ in near_duplicates(hashes, shuffled)} == {first.key for first, _ in pairs}


def test_many_images_take_seconds():
    rng = np.random.default_rng(7)
    hashes = {f"{i:032x}": text for i, text in enumerate(with_signs(rng, 20_000))}
    hashes |= dict.fromkeys(list(hashes)[:5_000], "ab" * 80)  # a placeholder that stands for a quarter of them
    records = [record(i, ("train", "train", "train", "val", "test")[i % 5]) for i in range(20_000)]
    started = time.monotonic()
    pairs = near_duplicates(hashes, records)
    assert time.monotonic() - started < 10
    assert len(pairs) == 4_000  # all placeholders but the test's


@pytest.fixture
def files(tmp_path, crops):
    """Two originals in train, a copy of one in val and of the other in test, and an image that nothing is like."""
    pictures = [crops[0], crops[1], jpeg(crops[0]), resized(crops[1]), crops[2], crops[3]]
    records = []
    for number, (pixels, split) in enumerate(zip(pictures, ("train", "train", "val", "test", "test", "train"), strict=True)):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        records.append(replace(record(number, split), path=str(path)))
    return records


def test_row_42_near_duplicates_are_an_error_that_names_some(files, tmp_path):
    with pytest.raises(DataError, match=r"2 images .* train \(.*0\.png\) and val \(.*2\.png\); train \(.*1\.png\) and test \(.*3\.png\)"):
        check_near_duplicates(files, tmp_path / "cache")


def test_row_42_near_duplicates_can_be_dropped(files, tmp_path, caplog):
    kept = check_near_duplicates(files, tmp_path / "cache", "drop")
    assert kept == files[2:]
    assert "Removed 2 images from train and 0 from val" in caplog.text
    assert check_near_duplicates(kept, tmp_path / "cache") == kept
    with pytest.raises(DataError, match="on_leak is 'ignore'"):
        check_near_duplicates(files, tmp_path / "cache", "ignore")


def test_files_are_hashed_once(files, tmp_path, monkeypatch):
    memo = PerceptualHashes(tmp_path / "cache")
    first = memo.of(files)
    assert len(first) == 6
    monkeypatch.setattr("datamodules.duplicates.read_image", lambda path: pytest.fail("read again"))
    assert PerceptualHashes(tmp_path / "cache").of(files) == first


def test_a_file_that_cannot_be_decoded_is_passed_over(files, tmp_path):
    broken = tmp_path / "4.png"
    broken.write_bytes(b"no image")
    assert len(PerceptualHashes(tmp_path / "cache").of(files)) == 5


def test_damaged_lines_of_the_memo_are_passed_over(tmp_path):
    memo = PerceptualHashes(tmp_path)
    looks = {f"{i:032x}": ("ab" * 80 if i else "") for i in range(3)}
    memo.remember(looks)
    path = tmp_path / MEMO
    with path.open("ab") as file:
        file.write(b"12345678 " + b"f" * 32 + b" " + b"cd" * 80 + b"\nhalf a li")
    memo.remember({"e" * 32: "ef" * 80})
    assert memo.load() == looks | {"e" * 32: "ef" * 80}
    content = path.read_bytes()
    path.write_bytes(content.replace(b"ab" * 80, b"ac" * 80))
    assert set(memo.load()) == {"0" * 32, "e" * 32}


def test_the_memo_s_format_stays(tmp_path):
    """Memos that are there already are read: checksum, content hash, 160 hex digits or a dash."""
    for content, found in (("0" * 32, "ab" * 80), ("1" * 32, "-")):
        payload = f"{content} {found}".encode()
        with (tmp_path / MEMO).open("ab") as file:
            file.write(b"\n%08x %s\n" % (zlib.crc32(payload), payload))
    assert PerceptualHashes(tmp_path).load() == {"0" * 32: "ab" * 80, "1" * 32: ""}
    PerceptualHashes(tmp_path / "new").remember({"0" * 32: "ab" * 80, "1" * 32: ""})
    lines = (tmp_path / MEMO).read_bytes().split()
    assert (tmp_path / "new" / MEMO).read_bytes().split() == lines
