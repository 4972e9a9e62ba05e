import io
import os
import random
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from datamodules.reader import DecodedImage, ImageError, ReaderLimits, read_image

RED = (255, 0, 0)


def picture(width=24, height=20, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3))
    return Image.fromarray(np.kron(coarse, np.ones((4, 4, 1))).astype(np.uint8))


def encode(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, bits, colour, rows, extra=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def refusal(source, limits=None):
    with pytest.raises(ImageError) as caught:
        read_image(source, limits or ReaderLimits())
    assert caught.value.reason.endswith(".")
    return caught.value.reason


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_pixels_and_facts(tmp_path, form):
    path = tmp_path / f"a.{form.lower()}"
    picture().save(path, lossless=True)
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, np.asarray(picture()))
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.writeable
    assert image.pixels.flags.c_contiguous
    assert (image.format.upper(), image.width, image.height, image.mode) == (form, 24, 20, "RGB")
    assert image.bytes == path.stat().st_size
    assert image.notes == ()


def test_a_jpeg_tells_how_it_was_compressed():
    data = encode(picture(), "JPEG", quality=70, subsampling="4:2:2")
    image = read_image(data)
    assert image.quantisation == tuple(Image.open(io.BytesIO(data)).quantization[0])
    assert image.sampling == ((2, 1), (1, 1), (1, 1))
    assert read_image(encode(picture().convert("L"), "JPEG")).sampling == ((1, 1),)
    other = read_image(encode(picture(), "PNG"))
    assert other.quantisation == other.sampling == ()


def test_path_and_bytes_give_the_same(tmp_path):
    data = encode(picture(), "JPEG", quality=95)
    (tmp_path / "a.jpg").write_bytes(data)
    assert np.array_equal(read_image(tmp_path / "a.jpg").pixels, read_image(data).pixels)


def test_row_01_zero_bytes_and_text(tmp_path):
    (tmp_path / "zero.png").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"hello")
    assert "empty" in refusal(tmp_path / "zero.png")
    assert "none of JPEG" in refusal(tmp_path / "text.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_row_02_truncated(form):
    data = encode(picture(), form)
    for part in (0.3, 0.6, 0.9):
        assert refusal(data[: int(len(data) * part)])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_row_02_truncated_loading_switched_on_elsewhere(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert "LOAD_TRUNCATED_IMAGES" in refusal(encode(picture(), "PNG"))


def test_row_02_flipped_bit_in_png_pixels():
    data = bytearray(encode(picture(), "PNG", compress_level=0))
    data[len(data) // 2] ^= 1
    assert "damaged" in refusal(bytes(data))


def test_row_03_transparent_red_becomes_white():
    image = read_image(encode(Image.new("RGBA", (20, 20), (*RED, 0)), "PNG"))
    assert (image.pixels == 255).all()
    assert image.mode == "RGBA"
    assert "alpha: composited on white" in image.notes


def test_row_03_half_transparent_and_opaque_alpha():
    half = read_image(encode(Image.new("RGBA", (20, 20), (*RED, 128)), "PNG")).pixels[0, 0]
    assert tuple(half) == (255, 127, 127)
    opaque = read_image(encode(Image.new("RGBA", (20, 20), (*RED, 255)), "WEBP", lossless=True))
    assert tuple(opaque.pixels[0, 0]) == RED
    assert opaque.notes == ()


@pytest.mark.parametrize(("mode", "colour", "expected"), [("L", 77, 77), ("LA", (77, 255), 77), ("LA", (77, 0), 255), ("1", 1, 255)])
def test_row_03_greyscale(mode, colour, expected):
    image = read_image(encode(Image.new(mode, (20, 20), colour), "PNG"))
    assert image.pixels.shape == (20, 20, 3)
    assert (image.pixels == expected).all()


def test_row_03_palette_with_transparent_colour():
    image = Image.new("P", (20, 20), 0)
    image.putpalette([*RED, 0, 255, 0])
    image.paste(1, (0, 0, 10, 20))
    opaque = read_image(encode(image, "PNG"))
    assert [tuple(opaque.pixels[0, x]) for x in (0, 19)] == [(0, 255, 0), RED]
    clear = read_image(encode(image, "PNG", transparency=0))
    assert [tuple(clear.pixels[0, x]) for x in (0, 19)] == [(0, 255, 0), (255, 255, 255)]
    partly = read_image(encode(image, "PNG", transparency=b"\x00\x80"))
    assert [tuple(partly.pixels[0, x]) for x in (0, 19)] == [(127, 255, 127), (255, 255, 255)]


def test_row_03_cmyk():
    image = read_image(encode(Image.new("CMYK", (20, 20), (0, 255, 255, 0)), "JPEG", quality=100))
    assert image.mode == "CMYK"
    np.testing.assert_allclose(image.pixels[0, 0].astype(int), RED, atol=2)


@pytest.mark.parametrize(("stored", "expected"), [(0, 0), (255, 0), (32768, 128), (65535, 255)])
def test_row_04_sixteen_bit_grey(stored, expected):
    image = read_image(encode(Image.fromarray(np.full((20, 20), stored, np.uint16)), "PNG"))
    assert (image.pixels == expected).all()
    assert "depth: 16 bits scaled to 8" in image.notes


def test_row_04_sixteen_bit_colour_agrees_with_grey():
    rows = (b"\0" + struct.pack(">HHH", 32768, 65535, 255) * 20) * 20
    image = read_image(png(20, 20, 16, 2, rows))
    assert (image.pixels == (128, 255, 0)).all()
    assert "depth: 16 bits scaled to 8" in image.notes


def test_row_04_sixteen_bit_transparent_colour():
    grey = read_image(png(20, 20, 16, 0, (b"\0" + struct.pack(">H", 700) * 20) * 20, chunk(b"tRNS", struct.pack(">H", 700))))
    assert (grey.pixels == 255).all()
    assert "alpha: composited on white" in grey.notes
    rows = (b"\0" + struct.pack(">HHH", 700, 800, 900) * 20) * 20
    colour = read_image(png(20, 20, 16, 2, rows, chunk(b"tRNS", struct.pack(">HHH", 700, 800, 900))))
    assert (colour.pixels == 255).all()


def test_row_04_sixteen_bit_tiff():
    image = read_image(encode(Image.fromarray(np.full((20, 20), 32768, np.uint16)), "TIFF"))
    assert (image.pixels == 128).all()


def test_row_05_float_tiff_refused():
    assert "mode F" in refusal(encode(Image.fromarray(np.full((20, 20), 0.5, np.float32)), "TIFF"))
    assert "mode I" in refusal(encode(Image.fromarray(np.full((20, 20), 70000, np.int32)), "TIFF"))


@pytest.mark.parametrize("form", ["EPS", "PPM", "ICO", "TGA", "PDF", "JPEG2000"])
def test_row_05_other_formats_refused(form):
    assert "none of JPEG, PNG, WebP, GIF, BMP, TIFF" in refusal(encode(picture(32, 32), form))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_row_06_animated_first_frame(form):
    frames = [Image.new("RGB", (20, 20), RED), Image.new("RGB", (20, 20), (0, 0, 255))]
    image = read_image(encode(frames[0], form, save_all=True, append_images=frames[1:], lossless=True))
    np.testing.assert_allclose(image.pixels[0, 0].astype(int), RED, atol=2)
    assert "animated: first frame" in image.notes


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_row_07_exif_orientation(form):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = read_image(encode(Image.new("RGB", (8, 4)), form, exif=exif), ReaderLimits(min_side=1))
    assert image.pixels.shape == (8, 4, 3)
    assert (image.width, image.height) == (8, 4)
    assert "exif: turned upright" in image.notes


def test_row_07_all_orientations_turn_the_pixels():
    original = np.asarray(picture())
    upright = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 6: lambda a: np.rot90(a, -1), 8: np.rot90}
    for value, turn in upright.items():
        exif = Image.Exif()
        exif[0x0112] = value
        image = read_image(encode(picture(), "PNG", exif=exif))
        np.testing.assert_array_equal(image.pixels, turn(original))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_row_07_damaged_exif_is_no_reason_to_refuse():
    data = encode(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(data).pixels.shape == (20, 24, 3)


def test_row_08_decompression_bomb(tmp_path, recwarn):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(10_000, 10_000, 1, 0, bytes(1251 * 10_000)))
    assert path.stat().st_size < 20_000
    assert "10000x10000 pixels, the limit is 64000000" in refusal(path)
    assert not recwarn.list


@pytest.mark.parametrize("size", [(9000, 8000), (40_000, 40_000), (2**31 - 1, 2**31 - 1)])
def test_row_08_refused_by_header_alone(size, recwarn):
    bombs = [
        png(*size, 8, 2, b""),
        encode(picture(), "BMP")[:18] + struct.pack("<II", *size) + encode(picture(), "BMP")[26:],
    ]
    if max(size) < 2**16:
        gif = encode(picture(), "GIF")
        bombs.append(gif[:6] + struct.pack("<HH", *size) + gif[10:])
        webp = b"VP8X" + struct.pack("<I", 10) + bytes(4) + b"".join(struct.pack("<I", side - 1)[:3] for side in size)
        bombs.append(b"RIFF" + struct.pack("<I", 100) + b"WEBP" + webp + bytes(20))
        jpeg = bytearray(encode(picture(), "JPEG"))
        start = jpeg.index(b"\xff\xc0")
        jpeg[start + 5 : start + 9] = struct.pack(">HH", *size)
        bombs.append(bytes(jpeg))
    for bomb in bombs:
        assert "pixels, the limit is" in refusal(bomb)
    assert not recwarn.list


def test_row_08_frame_larger_than_its_gif():
    data = bytearray(encode(picture(), "GIF"))
    start = data.index(b",\0\0\0\0\x18\0\x14\0")
    data[start + 5 : start + 9] = struct.pack("<HH", 60_000, 60_000)
    assert "more pixels than the limit" in refusal(bytes(data))


def test_row_08_limits_are_ours(recwarn):
    assert "the limit is 399 in all" in refusal(encode(Image.new("L", (20, 20)), "PNG"), ReaderLimits(max_pixels=399))
    assert "the limit is 50" in refusal(encode(picture(), "PNG"), ReaderLimits(max_bytes=50))
    above_pillows_warning = refusal(png(10_000, 9_500, 8, 2, b""), ReaderLimits(max_pixels=100_000_000))
    assert "cut short" in above_pillows_warning
    assert not recwarn.list
    with pytest.raises(ValueError, match="Pillow's own guard"):
        ReaderLimits(max_pixels=10**9)


def test_row_08_text_chunk_bomb():
    bomb = zlib.compress(bytes(50_000_000))
    for extra in (chunk(b"zTXt", b"k\0\0" + bomb), chunk(b"iTXt", b"k\0\1\0\0\0" + bomb), chunk(b"iCCP", b"k\0\0" + bomb)):
        assert "damaged" in refusal(png(20, 20, 8, 0, bytes(21 * 20), extra))


def test_row_08_progressive_scan_bomb():
    data = encode(Image.new("L", (200, 200)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert read_image(data[:-2] + scan * 3 + b"\xff\xd9").pixels.shape == (200, 200, 3)
    assert "scans" in refusal(data[:-2] + scan * 5000 + b"\xff\xd9")


def test_row_08_what_looks_like_scans_after_the_picture_is_no_bomb():
    assert read_image(encode(picture(), "JPEG") + b"\xff\xda" * 5000).pixels.shape == (20, 24, 3)


def test_row_09_minimum_side_and_aspect():
    assert "shorter side must have 16" in refusal(encode(Image.new("RGB", (1, 1)), "PNG"))
    assert "shorter side must have 16" in refusal(encode(Image.new("RGB", (1, 5000)), "PNG"))
    assert "10 times the other" in refusal(encode(Image.new("RGB", (16, 5000)), "PNG"))
    assert read_image(encode(Image.new("RGB", (1, 1)), "PNG"), ReaderLimits(min_side=1)).pixels.shape == (1, 1, 3)


def test_row_10_suffix_lies(tmp_path):
    path = tmp_path / "a.JPG"
    path.write_bytes(encode(picture(), "PNG"))
    image = read_image(path)
    assert image.format == "PNG"
    assert "suffix: named .jpg, is PNG" in image.notes
    (tmp_path / "no-suffix").write_bytes(encode(picture(), "PNG"))
    assert read_image(tmp_path / "no-suffix").notes == ()


def test_row_11_names(tmp_path):
    long = tmp_path / ("d" * 200) / ("e" * 200) / ("f" * 200)
    long.mkdir(parents=True)
    for path in (tmp_path / "größe 画像 🙂.png", tmp_path / " a b .v2.png", long / ("g" * 240 + ".png")):
        path.write_bytes(encode(picture(), "PNG"))
        assert read_image(path).pixels.shape == (20, 24, 3)
    assert "name too long" in refusal(tmp_path / ("n" * 300))
    assert "no file can have this name" in refusal(tmp_path / "a\0b.png")


def test_row_11_links_pipes_and_devices(tmp_path):
    os.symlink(tmp_path / "b.png", tmp_path / "a.png")
    os.symlink(tmp_path / "a.png", tmp_path / "b.png")
    os.symlink(tmp_path / "nothing.png", tmp_path / "dangling.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    start = time.monotonic()
    assert "symbolic links" in refusal(tmp_path / "a.png")
    assert "no such file" in refusal(tmp_path / "dangling.png")
    for name in ("pipe.png", "zero.png", "."):
        assert "not a regular file" in refusal(tmp_path / name)
    assert time.monotonic() - start < 5


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_row_11_unreadable(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encode(picture(), "PNG"))
    path.chmod(0)
    assert "permission denied" in refusal(path)


def test_no_global_state_changes():
    def state():
        return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY

    before = state()
    read_image(encode(picture(), "PNG"))
    refusal(b"nothing")
    assert state() == before


def test_no_torch_in_light_processes():
    code = (
        "import sys, datamodules.reader, datamodules.hashing, datamodules.splits, datamodules.families\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)


def valid_files():
    exif = Image.Exif()
    exif[0x0112] = 6
    image, other = picture(48, 48), picture(48, 48, seed=1)
    grey16 = Image.fromarray(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48) * 20)
    yield from (encode(image, "JPEG", exif=exif), encode(image, "JPEG", progressive=True), encode(image.convert("CMYK"), "JPEG"))
    yield from (encode(image.convert("RGBA"), "PNG", exif=exif), encode(image.quantize(16), "PNG", transparency=3), encode(grey16, "PNG"))
    yield from (encode(image, form, save_all=True, append_images=[other]) for form in ("GIF", "WEBP", "PNG", "TIFF"))
    yield from (encode(image, "BMP"), encode(image.quantize(16), "BMP"), encode(image, "WEBP"), encode(image, "WEBP", lossless=True))
    yield from (encode(image, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "tiff_deflate"))


def damaged(data, rng):
    data = bytearray(data)
    if rng.random() < 0.25:
        return bytes(data[: rng.randrange(len(data))])
    reach = len(data) if rng.random() < 0.5 else min(len(data), 120)  # headers are where decoders decide
    for _ in range(rng.choice([1, 2, 8, 40])):
        data[rng.randrange(reach)] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    return bytes(data)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_fuzz_gives_an_image_or_an_image_error():
    rng = random.Random(0)
    files = list(valid_files())
    refused = 0
    for _ in range(300):
        try:
            image = read_image(damaged(rng.choice(files), rng), ReaderLimits(max_pixels=1_000_000))
        except ImageError:
            refused += 1
        else:
            assert isinstance(image, DecodedImage)
            assert image.pixels.dtype == np.uint8
            assert image.pixels.shape[2] == 3
    assert 50 < refused < 300
