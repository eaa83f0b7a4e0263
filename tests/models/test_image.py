"""Pictures: the golden numbers bit for bit, every ordinary format, and a sentence for everything else."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file

from uncrate.errors import PictureError
from uncrate.models.chatglm.image import FORMATS, open_picture, pixels

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "glm4v-tiny"
EXPECTED = load_file(GOLDEN / "expected.safetensors")

RED, BLUE = (255, 0, 0), (0, 0, 255)


def halves(size: tuple[int, int] = (8, 4)) -> Image.Image:
    """A picture whose left half is red and right half is blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_of(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG whose header claims a size that its data does not have."""
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", body),
        (b"IEND", b""),
    ):
        out += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return out


@pytest.mark.parametrize(
    ("key", "file"),
    [("image", "image.png"), ("image2", "image2.png"), ("image_no_text", "image.png"), ("multi_turn", "image.png")],
)
def test_golden_pixels_bit_for_bit(key, file):
    got = pixels(GOLDEN / file, 16)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got, EXPECTED[f"pixels.{key}"][0])


def test_every_way_of_giving_a_picture_gives_the_same_numbers():
    path = GOLDEN / "image.png"
    image = Image.open(path)
    want = pixels(path, 16)
    for picture in (
        str(path),
        path.read_bytes(),
        memoryview(path.read_bytes()),
        image,
        np.asarray(image.convert("RGB")),
    ):
        np.testing.assert_array_equal(pixels(picture, 16), want)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    got = open_picture(saved(halves(), kind, **options))
    assert got.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(got), np.asarray(halves()))


def test_jpeg_and_cmyk_jpeg():
    for image in (halves((64, 32)), halves((64, 32)).convert("CMYK")):
        got = open_picture(saved(image, "JPEG", quality=95))
        left, right = np.asarray(got)[16, 5].astype(int), np.asarray(got)[16, 60].astype(int)
        assert abs(left - RED).max() < 30
        assert abs(right - BLUE).max() < 30


@pytest.mark.parametrize(("orientation", "left_is"), [(1, RED), (2, BLUE), (3, BLUE), (4, RED)])
def test_exif_orientation_flips(orientation, left_is):
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = open_picture(saved(halves(), "PNG", exif=exif))
    assert got.size == (8, 4)
    assert got.getpixel((0, 0)) == left_is


@pytest.mark.parametrize(("orientation", "top_is"), [(5, RED), (6, RED), (7, BLUE), (8, BLUE)])
def test_exif_orientation_turns(orientation, top_is):
    exif = Image.Exif()
    exif[0x0112] = orientation
    got = open_picture(saved(halves(), "PNG", exif=exif))
    assert got.size == (4, 8)
    assert got.getpixel((0, 0)) == top_is


def test_a_palette_with_transparency_keeps_its_colours_and_warns_nobody():
    palette = halves().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    data = saved(palette, "PNG", transparency=bytes([0, 128, 255, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = open_picture(data)
    np.testing.assert_array_equal(np.asarray(got), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_dropped_as_in_the_original(mode):
    image = Image.new("RGBA", (4, 4), (200, 200, 200, 7)).convert(mode)
    np.testing.assert_array_equal(np.asarray(open_picture(image)), 200)
    np.testing.assert_array_equal(np.asarray(open_picture(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV", "RGBX"])
def test_other_modes_equal_plain_conversion(mode):
    image = halves().convert(mode) if mode != "P" else halves().quantize(4)
    np.testing.assert_array_equal(np.asarray(open_picture(image)), np.asarray(image.convert("RGB")))


def test_deep_grey_is_scaled_and_not_cut():
    deep = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    want = [0, 1, 128, 255]
    for picture in (
        deep,
        saved(Image.fromarray(deep), "PNG"),
        saved(Image.fromarray(deep), "TIFF"),
        Image.fromarray(deep),
    ):
        assert np.asarray(open_picture(picture))[0, :, 0].tolist() == want
    wide = Image.fromarray(deep.astype(np.int32))
    assert np.asarray(open_picture(wide))[0, :, 0].tolist() == want


@pytest.mark.parametrize("top", [1.0, 255.0])
def test_float_grey(top):
    image = Image.fromarray(np.array([[0, top / 2, top]], dtype=np.float32))
    assert np.asarray(open_picture(image))[0, :, 0].tolist() == [0, 128, 255]


def test_a_phone_s_picture_with_a_second_one_inside():
    data = saved(
        Image.new("RGB", (16, 16), RED), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16), BLUE)]
    )
    assert abs(np.asarray(open_picture(data))[8, 8].astype(int) - RED).max() < 30


def test_the_first_frame_of_an_animation():
    data = saved(Image.new("RGB", (4, 4), RED), "GIF", save_all=True, append_images=[Image.new("RGB", (4, 4), BLUE)])
    assert open_picture(data).getpixel((1, 1)) == RED


def test_arrays():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(np.asarray(open_picture(grey))[:, :, 2], grey)
    np.testing.assert_array_equal(np.asarray(open_picture(grey[:, :, None]))[:, :, 0], grey)
    colour = np.arange(48, dtype=np.uint8).reshape(4, 3, 4)
    np.testing.assert_array_equal(np.asarray(open_picture(colour)), colour[:, :, :3])
    np.testing.assert_array_equal(np.asarray(open_picture(colour[::-1, ::-1])), colour[::-1, ::-1, :3])
    np.testing.assert_array_equal(np.asarray(open_picture(colour[:, :, :3] / 255)), colour[:, :, :3])
    assert np.asarray(open_picture(np.array([[True, False]])))[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), "move the channels to the end"),
        (np.zeros(5, np.uint8), "an array of shape \\[5\\] is not a picture"),
        (np.zeros((2, 2, 2, 3), np.uint8), "is not a picture"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0 pixels, which is none"),
        (np.full((2, 2), 2.0), "values from 0 to 1"),
        (np.full((2, 2), np.nan), "values from 0 to 1"),
        (np.zeros((2, 2), np.int64), "an array of int64"),
        (np.zeros((2, 2), object), "an array of object"),
        (np.zeros((2, 2), complex), "an array of complex128"),
    ],
)
def test_arrays_that_are_no_pictures(array, message):
    with pytest.raises(PictureError, match=message):
        open_picture(array)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the picture is empty"),
        (b"hello", "not a picture that can be read"),
        (b"\0" * 100, "not a picture that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "it is PostScript"),
        (b"%PDF-1.7\n", "it is a PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it is SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (saved(halves(), "PNG")[:48], "broken|not a picture"),
        (saved(halves((64, 64)), "JPEG")[:400], "broken"),
        (saved(halves((64, 64)), "WEBP")[:40], "broken|not a picture"),
        (saved(halves(), "GIF")[:30], "broken|not a picture"),
        (saved(halves(), "TIFF")[:50], "broken|not a picture"),
        (png_of(8, 8, b"not zlib"), "broken"),
        (png_of(0, 8), "broken|which is none|not a picture"),
        (png_of(100_000, 100_000), "too large|more than"),
        (png_of(12_000, 12_000), "12000 x 12000 pixels, more than 55000000"),
        (saved(halves(), "ICO"), "not a picture that can be read"),
        (b"P6 4 4 255\n\0\0", "broken"),
        (b"P6 -4 4 255\n\0\0", "broken|not a picture"),
    ],
)
def test_what_is_no_picture_is_a_sentence(data, message, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for picture in (data, path):
            with pytest.raises(PictureError, match=message) as caught:
                open_picture(picture)
    assert "a.png" in str(caught.value)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(PictureError, match=r"none\.png: there is no such picture"):
        open_picture(tmp_path / "none.png")
    with pytest.raises(PictureError, match="this is a folder"):
        open_picture(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PictureError, match="not a regular file"):
        open_picture(tmp_path / "pipe")
    for bad in ("a\0b", "x" * 5000):
        with pytest.raises(PictureError, match="cannot be read"):
            open_picture(bad)
    with pytest.raises(PictureError, match="a picture cannot be a int"):
        open_picture(3)


def test_a_bomb_is_refused_before_it_is_decoded():
    data = png_of(12_000, 12_000, zlib.compress(b"\0" * (36_001 * 12_000 // 40)))
    tracemalloc.start()
    with pytest.raises(PictureError, match="more than"):
        open_picture(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20
    with pytest.raises(PictureError, match="8 x 4 pixels, more than 31 in all"):
        open_picture(halves(), max_pixels=31)
    with pytest.raises(PictureError, match="more than 31"):
        open_picture(np.zeros((4, 8), np.uint8), max_pixels=31)
    open_picture(halves(), max_pixels=32)


def test_a_closed_pil_image_is_a_sentence(tmp_path):
    halves().save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    image.close()
    with pytest.raises(PictureError, match="broken"):
        open_picture(image)


def test_an_opened_picture_opens_again_unchanged_and_a_given_one_is_not_touched():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(halves(), "PNG", exif=exif)
    once = open_picture(data)
    np.testing.assert_array_equal(np.asarray(open_picture(once)), np.asarray(once))
    given_image = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(open_picture(given_image)), np.asarray(once))
    assert given_image.size == (8, 4)
    assert given_image.getexif()[0x0112] == 6


def test_threads_leave_the_warning_filters_as_they_were():
    palette = saved(halves((64, 64)).quantize(4), "PNG", transparency=bytes([0, 128, 255, 255]))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(open_picture, [palette] * 200))
    assert {picture.mode for picture in pictures} == {"RGB"}
    assert warnings.filters == before


def test_only_ordinary_formats_are_reached():
    assert "EPS" not in FORMATS
    assert set(FORMATS) <= {"PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"}


@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    st.floats(0, 1),
)
@settings(deadline=None, max_examples=150)
def test_a_damaged_picture_opens_or_is_refused(kind, flips, cut):
    data = bytearray(saved(halves((24, 16)), kind))
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    try:
        got = open_picture(bytes(data[: int(cut * len(data)) or 1]) if cut < 0.9 else bytes(data))
    except PictureError:
        return
    assert got.mode == "RGB"
