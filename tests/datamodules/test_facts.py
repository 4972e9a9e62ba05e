"""Facts of files and pixels: against Pillow, scipy and closed forms; the memo against everything that may stand in it."""

import io
import json
import math
import threading
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy import signal

from datamodules.errors import DataError
from datamodules.facts import (
    DESCRIPTIONS,
    MEMO,
    NUMBER_FACTS,
    TEXT_FACTS,
    Facts,
    chroma,
    facts_of_file,
    facts_of_pixels,
    high_frequency,
    jpeg_quality,
    source_facts,
)
from datamodules.perturbations import perturbation
from datamodules.reader import read_image
from datamodules.records import Record, seed_of

PIXELS = ["fact_width", "fact_height", "fact_aspect", "fact_high_frequency", "fact_red", "fact_green", "fact_blue"]
STORED = ["fact_format", "fact_bytes", "fact_bits_per_pixel"]


def noise(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encode(pixels, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def file_facts(pixels, form, **options):
    return facts_of_file(read_image(encode(pixels, form, **options)))


def tables(quality):
    with Image.open(io.BytesIO(encode(noise(16, 16), "JPEG", quality=quality))) as image:
        return image.quantization


@pytest.mark.parametrize("quality", range(1, 101))
def test_the_quality_of_libjpegs_tables_comes_back(quality):
    assert jpeg_quality(tables(quality)[0]) == quality


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("options", [{"progressive": True}, {"optimize": True}, {"subsampling": 0}])
def test_the_quality_does_not_depend_on_how_else_it_was_stored(quality, options):
    facts = file_facts(noise(), "JPEG", quality=quality, **options)
    assert facts["fact_jpeg_quality"] == quality


def test_a_table_that_libjpeg_did_not_write_gets_the_nearest():
    near = [value + (-1) ** i for i, value in enumerate(tables(60)[0])]
    assert jpeg_quality(near) == 60
    assert jpeg_quality([1] * 64) == 100
    assert jpeg_quality([255] * 64) == jpeg_quality([65535] * 64) == 1
    flat = jpeg_quality([16] * 64)  # as coarse everywhere as a table of high quality is in the middle
    distances = [sum((value - 16) ** 2 for value in tables(quality)[0]) for quality in range(1, 101)]
    assert distances[flat - 1] == min(distances)


def test_a_custom_table_is_read_from_the_file():
    facts = file_facts(noise(), "JPEG", qtables=[tables(42)[0], tables(80)[1]])
    assert facts["fact_jpeg_quality"] == 42


def test_the_luma_table_is_that_of_the_first_component_whatever_its_number():
    data = bytearray(encode(noise(), "JPEG", quality=70))
    for old, new in ((0, 2), (1, 0), (2, 1)):  # the two tables change their numbers
        data[data.index(b"\xff\xdb\x00\x43" + bytes([old])) + 4] = new
    frame = data.index(b"\xff\xc0") + 10
    for component, number in enumerate((1, 0, 0)):
        data[frame + 3 * component + 2] = number
    image = read_image(bytes(data))
    np.testing.assert_array_equal(image.pixels, read_image(encode(noise(), "JPEG", quality=70)).pixels)
    assert jpeg_quality(image.quantisation) == 70


@pytest.mark.parametrize(("subsampling", "name"), [(0, "4:4:4"), (1, "4:2:2"), (2, "4:2:0")])
def test_chroma_of_files(subsampling, name):
    assert file_facts(noise(), "JPEG", subsampling=subsampling)["fact_chroma"] == name


def test_chroma_of_other_factors():
    assert chroma([(1, 1)]) == chroma([(2, 2)]) == "grey"
    assert chroma([(4, 1), (1, 1), (1, 1)]) == "4×1"
    assert chroma([(1, 2), (1, 1), (1, 1)]) == "1×2"
    assert chroma([(4, 4), (2, 2), (2, 2)]) == chroma([(2, 2), (1, 1), (1, 1), (2, 2)]) == "4:2:0"
    assert chroma([(3, 1), (2, 1), (2, 1)]) == "3×1"
    facts = facts_of_file(read_image(encode(noise()[..., 0], "JPEG", quality=50)))
    assert (facts["fact_chroma"], facts["fact_jpeg_quality"]) == ("grey", 50)


@pytest.mark.parametrize(("form", "name"), [("PNG", "PNG"), ("WEBP", "WebP"), ("BMP", "BMP"), ("GIF", "GIF"), ("TIFF", "TIFF")])
def test_other_formats_have_no_facts_of_jpeg(form, name):
    data = encode(noise(), form)
    facts = facts_of_file(read_image(data))
    assert facts["fact_format"] == name
    assert facts["fact_bytes"] == len(data)
    assert facts["fact_bits_per_pixel"] == pytest.approx(8 * len(data) / 2400, rel=1e-5)
    assert list(facts) == PIXELS + STORED


def test_an_image_is_measured_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = file_facts(noise(40, 60), "JPEG", exif=exif)
    assert (facts["fact_width"], facts["fact_height"], facts["fact_aspect"]) == (40, 60, pytest.approx(2 / 3, rel=1e-5))


@pytest.mark.parametrize("shape", [(40, 60), (3, 3), (3, 50), (700, 90), (17, 2048)])
def test_high_frequency_is_scipys_convolution(shape):
    pixels = noise(*shape)
    luma = pixels.astype(np.float64) @ [0.299, 0.587, 0.114]
    kernel = np.outer([1, -2, 1], [1, -2, 1]) / 16
    expected = np.square(signal.convolve2d(luma, kernel, mode="valid")).mean()
    assert high_frequency(pixels) == pytest.approx(expected, rel=1e-5)
    assert facts_of_pixels(pixels)["fact_high_frequency"] == pytest.approx(expected, rel=1e-5)


def test_of_a_large_image_the_middle_is_measured_for_its_detail():
    pixels = np.zeros((2100, 2050, 3), np.uint8)
    pixels[26:2074, 1:2049] = noise(2048, 2048)
    assert high_frequency(pixels) == high_frequency(np.ascontiguousarray(pixels[26:2074, 1:2049])) > 0


def test_high_frequency_of_what_has_a_closed_form():
    rows, columns = np.mgrid[:64, :80]
    ramp = np.repeat((rows + 2 * columns)[..., None], 3, axis=2).astype(np.uint8)
    assert high_frequency(np.full((300, 300, 3), (7, 99, 201), np.uint8)) == high_frequency(ramp[:40, :40]) == 0.0  # exactly
    board = np.repeat(((rows + columns) % 2 * 255)[..., None], 3, axis=2).astype(np.uint8)
    assert high_frequency(board) == pytest.approx(127.5**2, rel=1e-6)
    grey = np.clip(np.random.default_rng(1).normal(128, 10, (500, 500, 1)).round(), 0, 255).astype(np.uint8).repeat(3, axis=2)
    assert high_frequency(grey) == pytest.approx(36 / 256 * grey[..., 0].var(), rel=0.03)


def test_it_falls_with_blur_and_rises_with_noise_and_blocks():
    rows, columns = np.mgrid[:128, :128]
    waves = [127 + 90 * np.sin(rows / (7 + i)) * np.cos(columns / (9 - i)) for i in range(3)]
    picture = np.clip(np.stack(waves, -1) + np.random.default_rng(0).normal(0, 6, (128, 128, 3)), 0, 255).astype(np.uint8)
    values = [high_frequency(perturbation(name)(picture, 1)) for name in ("blur_1.0", "none", "noise_0.05")]
    assert values == sorted(values)
    assert values[2] > 2 * values[1] > 10 * values[0]


def test_colours_are_means_and_sizes_are_plain():
    pixels = noise(30, 20)
    facts = facts_of_pixels(pixels)
    assert list(facts) == PIXELS
    assert [facts[name] for name in PIXELS[4:]] == pytest.approx(pixels.reshape(-1, 3).mean(0).tolist(), rel=1e-5)
    assert (facts["fact_width"], facts["fact_height"], facts["fact_aspect"]) == (20, 30, pytest.approx(2 / 3, rel=1e-5))
    assert type(facts["fact_width"]) is int
    part = np.zeros((90, 90, 3), np.uint8)
    part[10:40, 20:40] = pixels
    assert facts_of_pixels(part[10:40, 20:40]) == facts


def test_colours_of_a_tall_white_image_do_not_overflow():
    facts = facts_of_pixels(np.full((1030, 17, 3), 255, np.uint8))
    assert [facts[name] for name in PIXELS[4:]] == [255, 255, 255]


@pytest.mark.parametrize("shape", [(1, 1), (2, 50), (50, 2)])
def test_an_image_too_small_for_the_kernel_has_no_fine_detail(shape):
    assert "fact_high_frequency" not in facts_of_pixels(noise(*shape))


def test_it_takes_milliseconds():
    pixels = noise(512, 512)
    facts_of_pixels(pixels)
    times = []
    for _ in range(10):
        started = time.thread_time()
        facts_of_pixels(pixels)
        times.append(time.thread_time() - started)
    assert min(times) < 0.015  # three on an idle core


def test_every_column_is_described_and_of_one_kind():
    assert set(TEXT_FACTS) | set(NUMBER_FACTS) == set(DESCRIPTIONS)
    assert not set(TEXT_FACTS) & set(NUMBER_FACTS)
    assert all(name.startswith("fact_") and text.endswith(".") for name, text in DESCRIPTIONS.items())
    facts = file_facts(noise(), "JPEG") | source_facts(
        Record("", 1, "d", "g", source_format="PNG", source_width=3, source_height=2, source_bytes=9)
    )
    assert set(facts) == set(DESCRIPTIONS)
    assert all(isinstance(value, str) == (name in TEXT_FACTS) for name, value in facts.items())


@pytest.fixture
def records(tmp_path):
    """A PNG, a JPEG, a file that is no image, one that is gone, and a copy of the first with what it was before."""
    contents = [encode(noise(seed=1), "PNG"), encode(noise(50, 70, seed=2), "JPEG", quality=62), b"no image", None]
    found = []
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.bin"
        if content is not None:
            path.write_bytes(content)
        found.append(Record(f"{number:032x}", number % 2, "d", "g", path=str(path)))
    found[1] = replace(found[1], source_format="WebP", source_width=300, source_height=200)
    return [
        *found,
        replace(found[0], key=found[0].key + "-1", source_bytes=77),
        Record("f" * 32, 1, "d", "g", url="https://example.org/a.png"),
    ]


def test_facts_of_records(records, tmp_path):
    found = Facts(tmp_path / "cache").of(records)
    assert set(found) == {records[0].key, records[1].key, records[4].key}
    for i in (0, 1):
        own = facts_of_file(read_image((tmp_path / f"{i}.bin").read_bytes()))
        assert {name: value for name, value in found[records[i].key].items() if "source" not in name} == own
    told = {name: value for name, value in found[records[1].key].items() if "source" in name}
    assert told == {"fact_source_format": "WebP", "fact_source_width": 300, "fact_source_height": 200, "fact_source_aspect": 1.5}
    assert found[records[4].key] == found[records[0].key] | {"fact_source_bytes": 77}
    assert all(value is not None for facts in found.values() for value in facts.values())
    assert Facts(tmp_path / "cache").of([]) == {}


def test_under_a_perturbation_only_the_pixels_have_facts(records, tmp_path):
    name = "crop_half+noise_0.05"
    found = Facts(tmp_path / "cache").of(records, name)
    assert set(found) == {records[0].key, records[1].key, records[4].key}
    seen = perturbation(name)(read_image((tmp_path / "1.bin").read_bytes()).pixels, seed_of(records[1]))
    assert found[records[1].key] == facts_of_pixels(seen)
    assert list(found[records[0].key]) == PIXELS
    assert Facts(tmp_path / "cache").of(records, "crop_45").keys() == {records[1].key}  # the other is too small
    with pytest.raises(DataError, match="is not known"):
        Facts(tmp_path / "cache").of(records, "blurr")
    with pytest.raises(DataError, match="is a preset"):
        Facts(tmp_path / "cache").of(records, "jpeg")


def test_files_are_read_once(records, tmp_path, monkeypatch):
    facts = Facts(tmp_path / "cache")
    first, perturbed = facts.of(records[:2]), facts.of(records[:2], "jpeg_40")
    monkeypatch.setattr("datamodules.facts.read_image", lambda path: pytest.fail("read again"))
    assert Facts(tmp_path / "cache").of(records[:2]) == first
    assert Facts(tmp_path / "cache").of(records[:2], "jpeg_40") == perturbed != first


def test_many_processes_compute_an_image_once(records, tmp_path, monkeypatch):
    reads = []

    def slow(path):
        reads.append(path)
        time.sleep(0.05)
        return read_image(path)

    monkeypatch.setattr("datamodules.facts.read_image", slow)
    threads = [threading.Thread(target=lambda: Facts(tmp_path / "cache").of(records[:2])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 2


def line(content, name, payload):
    text = f"{content} {name} {payload}".encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


GOOD = {
    **{
        "fact_width": 60,
        "fact_height": 40,
        "fact_aspect": 1.5,
        "fact_high_frequency": 2.5,
        "fact_red": 1.0,
        "fact_green": 2.0,
        "fact_blue": 3.0,
    },
    **{"fact_format": "JPEG", "fact_bytes": 999, "fact_bits_per_pixel": 3.3, "fact_jpeg_quality": 90, "fact_chroma": "4:2:0"},
}
SPOILED = [
    *({"fact_width": value} for value in (0, -1, "60", None, True, [1], {}, 1e16, 10**300)),
    *({"fact_bytes": value} for value in (0, -5, 1e300)),
    *({"fact_jpeg_quality": value} for value in (0, 101, "90")),
    *({"fact_red": value} for value in (-0.1, 255.1)),
    *({"fact_format": value} for value in ("=cmd()", "<script>", 3, "jpeg", ["JPEG"])),
    *({"fact_chroma": value} for value in ("4:2:1", "", 420, "4:2:0\n")),
    {"fact_source_width": 3},
    {"fact_other": 3},
]


@pytest.mark.parametrize("wrong", SPOILED, ids=repr)
def test_a_spoiled_line_of_the_memo_is_passed_over(records, tmp_path, wrong):
    cache = tmp_path / "cache"
    cache.mkdir()
    payload = json.dumps(GOOD | wrong, separators=(",", ":"))
    (cache / MEMO).write_bytes(line(records[0].key, "none", payload))
    assert Facts(cache).of(records[:1])[records[0].key] == facts_of_file(read_image((tmp_path / "0.bin").read_bytes()))


PAYLOADS = [
    *(json.dumps(GOOD | {"fact_red": value}, separators=(",", ":")) for value in (math.nan, math.inf, -math.inf)),
    *(
        "",
        "null",
        "[]",
        "3",
        "{",
        '{"fact_width":1}',
        "{}",
        "[" * 3000,
        '{"fact_width":' + "9" * 5000 + "}",
        "\0",
        '"' + "a" * 10_000_000 + '"',
    ),
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: payload[:20])
def test_what_is_no_line_at_all_is_passed_over(records, tmp_path, payload):
    cache = tmp_path / "cache"
    cache.mkdir()
    known = line(records[0].key, "none", json.dumps(GOOD, separators=(",", ":")))
    (cache / MEMO).write_bytes(line(records[1].key, "none", payload) + known + b"half a li")
    found = Facts(cache).of(records[:2])
    assert found[records[0].key] == GOOD
    assert found[records[1].key]["fact_width"] == 70
    assert Facts(cache).of(records[:2]) == found  # what was left unfinished damages nothing that is written after it


def test_facts_of_a_file_are_none_of_a_perturbed_image_and_the_other_way_round(records, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    pixels = {name: GOOD[name] for name in PIXELS}
    lines = [line(records[0].key, name, json.dumps(facts, separators=(",", ":"))) for name, facts in (("none", pixels), ("jpeg_40", GOOD))]
    (cache / MEMO).write_bytes(b"".join(lines))
    assert "fact_format" in Facts(cache).of(records[:1])[records[0].key]
    assert list(Facts(cache).of(records[:1], "jpeg_40")[records[0].key]) == PIXELS
    (cache / MEMO).write_bytes(lines[0].replace(b"none", b"nono") + lines[1].replace(b"2.5", b"2.6"))  # checksums are wrong
    assert Facts(cache).of(records[:1])[records[0].key]["fact_format"] == "PNG"


def test_a_memo_that_cannot_be_written_is_no_error(records, tmp_path, caplog):
    cache = tmp_path / "cache"
    (cache / MEMO).mkdir(parents=True)
    assert len(Facts(cache).of(records)) == 3
    Facts(cache).remember({(records[0].key, "none"): GOOD})
    assert "Facts of images cannot be remembered" in caplog.text
