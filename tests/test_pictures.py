import io
import os
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from PIL.Image import Transpose

from vit_patch_env.data import pictures
from vit_patch_env.data.pictures import SUFFIXES, read_picture
from vit_patch_env.data.resize import resize_images, resize_square
from vit_patch_env.data.rgb import BACKGROUND, to_rgb
from vit_patch_env.system.shown import escaped

STORED = {
    1: None,
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_270,
}
"""How an upright picture is stored, by its orientation."""

LOSSLESS = {
    "jpg": {"quality": 100, "subsampling": 0},
    "webp": {"lossless": True},
    "avif": {"quality": 100, "subsampling": "4:4:4"},
}
"""How Pillow writes a format with the least loss."""

OPTIONAL = {"avif": "avif", "jp2": "jpg_2000", "webp": "webp"}
"""Formats that a build of Pillow may lack, and how it names them."""


def skip_unless_supported(suffix):
    if not features.check(OPTIONAL.get(suffix, "jpg")):
        pytest.skip(f"this Pillow lacks {suffix}")


@pytest.fixture
def save(tmp_path):
    def save(image, suffix, **options):
        skip_unless_supported(suffix)
        path = tmp_path / f"picture.{suffix}"
        image.save(path, **LOSSLESS.get(suffix, {}), **options)
        return str(path)

    return save


@pytest.fixture
def write(tmp_path):
    def write(content, suffix):
        path = tmp_path / f"picture.{suffix}"
        path.write_bytes(content)
        return str(path)

    return write


def blocks(width=64, height=32):
    """A picture that differs from each of its rotations and reflections."""
    image = Image.new("RGB", (width, height), (200, 30, 30))
    image.paste((30, 200, 30), (width // 2, 0, width, height // 2))
    image.paste((30, 30, 200), (0, height // 2, width // 2, height))
    return image


def as_pixels(image):
    return np.asarray(image).transpose(2, 0, 1)


def difference(one, other):
    return np.abs(one.astype(int) - other).max()


def oriented(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif.tobytes()


def stored(image, orientation):
    method = STORED[orientation]
    return image if method is None else image.transpose(method)


def png(bits, colour, rows, chunks=()):
    """A PNG of any depth: `rows` of packed samples, and chunks (name, content)."""
    width = len(rows[0]) * 8 // bits // {0: 1, 2: 3}[colour]
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    content = b"\x89PNG\r\n\x1a\n"
    for name, part in ((b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")):
        checksum = zlib.crc32(name + part)
        content += struct.pack(">I", len(part)) + name + part + struct.pack(">I", checksum)
    return content


def grey_tiff(width, height, bits, data, photometric=1):
    """A TIFF of one strip of grey samples, little-endian, in a depth that Pillow does not write."""
    offset = 8 + 2 + 9 * 12 + 4
    tags = {
        256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: offset, 277: 1,
        278: height, 279: len(data),
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def fits(width, height):
    cards = {"SIMPLE": "T", "BITPIX": 16, "NAXIS": 2, "NAXIS1": width, "NAXIS2": height}
    header = "".join(f"{name:8}= {value:>20}".ljust(80) for name, value in cards.items()) + "END"
    return header.ljust(2880).encode() + bytes(2880)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "avif", "tif"])
def test_pictures_are_upright(suffix, orientation, save):
    path = save(stored(blocks(), orientation), suffix, exif=oriented(orientation))
    expected = as_pixels(blocks().resize((32, 32), Image.Resampling.BILINEAR))
    assert difference(read_picture(path, 32, "stretch"), expected) <= 4


def test_an_orientation_in_xmp_is_applied(save):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    path = save(stored(blocks(32, 32), 6), "jpg", xmp=xmp)
    assert difference(read_picture(path, 32, "crop"), as_pixels(blocks(32, 32))) <= 4


@pytest.mark.one_in(8)
@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
def test_large_jpegs_decoded_at_an_eighth_are_not_displaced(resize, orientation, save, monkeypatch):
    """Their size is no multiple of 8: the last column and row of the draft are partly empty."""
    y, x = np.mgrid[:777, :1001]
    waves = np.stack((np.sin(x / 40), np.cos(y / 40), np.sin((x + y) / 60)), axis=-1)
    upright = Image.fromarray((127 + 120 * waves).astype(np.uint8))
    path = save(stored(upright, orientation), "jpg", exif=oriented(orientation))
    draft = read_picture(path, 32, resize)
    monkeypatch.setattr(pictures, "_draft_size", lambda size, *_: size)
    whole = read_picture(path, 32, resize)
    assert not np.array_equal(draft, whole)
    assert difference(draft, whole) <= 8  # about 20 where they are displaced


def half_transparent(mode):
    """Black, its left half transparent, in a mode with an alpha channel."""
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    return image.convert(mode) if mode != "RGBA" else image


def two_halves(mode, left, right):
    image = Image.new(mode, (8, 8), right)
    image.paste(left, (0, 0, 4, 8))
    if mode == "P":
        image.putpalette([0, 0, 0] * 256)
    return image


WHITE_AND_BLACK = np.array([255] * 4 + [0] * 4)
"""Every row of a black picture on white whose left half is transparent."""


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_alpha_channels_are_composed_on_white(mode):
    image = half_transparent("RGBA")
    for step in {"PA": ["PA"], "RGBa": ["RGBa"], "La": ["LA", "La"], "LA": ["LA"]}.get(mode, []):
        image = image.convert(step)
    assert image.mode == mode
    assert (np.asarray(to_rgb(image))[..., 0] == WHITE_AND_BLACK).all()


@pytest.mark.parametrize(
    ("image", "suffix", "options"),
    [
        (half_transparent("RGBA"), "png", {}),
        (half_transparent("RGBA"), "webp", {"exact": True}),
        (half_transparent("RGBA"), "avif", {}),
        (half_transparent("RGBA"), "tif", {}),
        (half_transparent("RGBA"), "tga", {}),
        (half_transparent("RGBA"), "jp2", {}),
        (half_transparent("RGBA"), "ico", {"sizes": [(8, 8)]}),
        (half_transparent("LA"), "png", {}),
        (half_transparent("LA"), "tif", {}),
        (two_halves("P", 1, 2), "png", {"transparency": 1}),
        (two_halves("P", 1, 2), "png", {"transparency": bytes([255, 0, 255])}),
        (two_halves("P", 1, 2), "gif", {"transparency": 1}),
        (two_halves("1", 255, 0), "png", {"transparency": 255}),
        (two_halves("L", 9, 0), "png", {"transparency": 9}),
        (
            Image.fromarray(np.repeat([[999, 0]], 4, axis=1).repeat(8, axis=0).astype(np.uint16)),
            "png",
            {"transparency": 999},
        ),
        (two_halves("RGB", (1, 2, 3), (0, 0, 0)), "png", {"transparency": (1, 2, 3)}),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_transparent_pixels_of_files_are_white(image, suffix, options, save):
    path = save(image, suffix, **options)
    pixels = read_picture(path, 8, "crop")
    assert difference(pixels, WHITE_AND_BLACK) <= (1 if suffix == "avif" else 0)


@pytest.mark.parametrize(
    ("bits", "colour", "row", "transparent"),
    [
        (2, 0, b"\x55\x00", struct.pack(">H", 1)),
        (4, 0, b"\x77\x77\x00\x00", struct.pack(">H", 7)),
        (16, 0, struct.pack(">8H", *[4660] * 4, *[0] * 4), struct.pack(">H", 4660)),
        (16, 2, struct.pack(">24H", *[4660] * 12, *[0] * 12), struct.pack(">3H", *[4660] * 3)),
    ],
)
def test_transparent_colours_of_every_depth_are_white(bits, colour, row, transparent, write):
    path = write(png(bits, colour, [row] * 8, [(b"tRNS", transparent)]), "png")
    assert (read_picture(path, 8, "crop") == WHITE_AND_BLACK).all()
    with Image.open(path) as image:  # also a second time, when Pillow has forgotten the depth
        assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(to_rgb(image)))


def test_partly_transparent_pixels_are_mixed_with_the_background(save):
    path = save(Image.new("RGBA", (4, 4), (0, 100, 255, 51)), "png")
    assert read_picture(path, 4, "crop")[:, 0, 0].tolist() == [204, 224, 255]


LEVELS = np.array([0, 128, 129, 257, 4660, 32768, 65406, 65407, 65535], dtype=np.uint16)
EIGHT_BITS = np.array([0, 0, 1, 1, 18, 128, 254, 255, 255])
SIXTEEN_BITS = np.tile(LEVELS, (9, 1))


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (lambda: Image.fromarray(SIXTEEN_BITS), "png"),
        (lambda: Image.fromarray(SIXTEEN_BITS), "tif"),
        (lambda: Image.fromarray(SIXTEEN_BITS), "jp2"),
        (lambda: Image.frombytes("I;16B", (9, 9), SIXTEEN_BITS.astype(">u2").tobytes()), "tif"),
        (lambda: b"P5 9 9 65535\n" + SIXTEEN_BITS.astype(">u2").tobytes(), "pgm"),
        (lambda: b"P2 9 9 65535\n" + b" ".join(b"%d" % v for v in SIXTEEN_BITS.flat), "pgm"),
        (lambda: grey_tiff(9, 9, 16, SIXTEEN_BITS.tobytes()), "tif"),
        (lambda: grey_tiff(9, 9, 16, (65535 - SIXTEEN_BITS).tobytes(), photometric=0), "tif"),
    ],
    ids=["png", "tif", "jp2", "big-endian tif", "pgm", "plain pgm", "raw tif", "white is zero"],
)
def test_16_bit_grey_is_scaled_to_the_nearest_of_8_bits(content, suffix, save, write):
    content = content()
    path = (write if isinstance(content, bytes) else save)(content, suffix)
    assert (read_picture(path, 9, "crop") == EIGHT_BITS).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_16_bit_grey_in_memory_is_scaled(mode):
    order = ">u2" if mode == "I;16B" else "<u2"
    image = Image.frombytes(mode, (9, 9), SIXTEEN_BITS.astype(order).tobytes())
    assert (np.asarray(to_rgb(image)) == EIGHT_BITS[:, None]).all()


@pytest.mark.parametrize(
    ("content", "suffix", "expected"),
    [
        (grey_tiff(2, 2, 12, b"\x00\x0f\xff" * 2), "tif", [0, 255]),
        (b"P5 2 2 1023\n" + struct.pack(">4H", 0, 1023, 0, 1023), "pgm", [0, 255]),
        (b"P6 2 2 65535\n" + struct.pack(">12H", *[0] * 3, *[65535] * 3, *[0] * 3, *[65535] * 3),
         "ppm", [0, 255]),
        (png(16, 2, [struct.pack(">6H", *[4660] * 3, *[65535] * 3)] * 2), "png", [18, 255]),
        (png(2, 0, [b"\xb0"] * 4), "png", [170, 255, 0, 0]),
        (png(1, 0, [b"\x80"] * 8), "png", [255] + [0] * 7),
    ],
    ids=["12-bit TIFF", "10-bit PGM", "16-bit PPM", "16-bit RGB", "2-bit grey", "1-bit grey"],
)  # fmt: skip
def test_other_depths_are_scaled_by_their_range(content, suffix, expected, write):
    pixels = read_picture(write(content, suffix), len(expected), "crop")
    assert (pixels == np.array(expected)).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_whose_range_is_unknown_are_refused(mode, save):
    image = Image.new(mode, (8, 8), 7)
    with pytest.raises(ValueError, match=r"got .*\.tif: 32-bit pixels whose range is unknown$"):
        read_picture(save(image, "tif"), 8, "crop")
    with pytest.raises(ValueError, match=r"^32-bit pixels whose range is unknown$"):
        to_rgb(image)


def test_signed_16_bit_pixels_are_refused(write):
    with pytest.raises(ValueError, match=r"got .*\.fits: 16-bit pixels whose range is unknown$"):
        read_picture(write(fits(8, 8), "fits"), 8, "crop")


@pytest.mark.parametrize(
    "suffix",
    ["bmp", "dib", "gif", "ico", "jp2", "jpg", "pcx", "png", "ppm", "qoi", "sgi", "tga", "tif",
     "webp", "avif", "dds"],
)  # fmt: skip
def test_every_format_of_pillow_is_read(suffix, save):
    image = blocks(32, 32)
    if suffix == "gif":
        image = image.quantize()
    pixels = read_picture(save(image, suffix), 32, "crop")
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert difference(pixels, as_pixels(blocks(32, 32))) <= (4 if suffix in ("jpg", "avif") else 0)
    assert f".{suffix}" in SUFFIXES


def test_the_content_of_a_file_determines_its_format(save):
    path = save(blocks(32, 32), "png")
    renamed = str(Path(path).rename(path + ".jpg"))
    assert np.array_equal(read_picture(renamed, 32, "crop"), as_pixels(blocks(32, 32)))


def test_suffixes_are_those_of_pictures_that_pillow_decodes_itself():
    assert {".jpeg", ".mpo", ".tiff"} <= SUFFIXES
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".grib", ".bufr", ".iim"} & SUFFIXES


def test_files_that_start_another_program_are_refused_whatever_their_name(write):
    path = write(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "jpg")
    with pytest.raises(ValueError, match="not a picture in a format that Pillow decodes"):
        read_picture(path, 8, "crop")


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("1", "png"), ("L", "jpg"), ("P", "png"), ("CMYK", "jpg"), ("CMYK", "tif"), ("YCbCr", "jpg"),
     ("YCbCr", "tif"), ("RGBX", "tif"), ("LAB", "tif")],
)  # fmt: skip
def test_every_colour_space_becomes_rgb(mode, suffix, save):
    level = 255 if mode == "1" else 77
    image = Image.new("RGB", (16, 16), (level,) * 3)
    image = image.convert(mode, palette=Image.Palette.ADAPTIVE)
    assert difference(read_picture(save(image, suffix), 16, "crop"), level) <= 2


def test_colours_keep_their_channels():
    image = blocks(8, 8)
    for mode in ("CMYK", "YCbCr", "HSV", "LAB"):
        assert difference(np.asarray(to_rgb(image.convert(mode))), np.asarray(image)) <= 15
    assert to_rgb(image) is image


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiffs_are_read_and_upright(compression, save):
    options = {"compression": compression, "exif": oriented(6)}
    path = save(stored(blocks(32, 32), 6), "tif", **options)
    assert np.array_equal(read_picture(path, 32, "crop"), as_pixels(blocks(32, 32)))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "avif", "tif", "mpo"])
def test_animations_give_their_first_picture(suffix, save):
    first, second = (Image.new("RGB", (16, 16), (level,) * 3) for level in (80, 200))
    path = save(first, suffix, save_all=True, append_images=[second])
    assert difference(read_picture(path, 16, "crop"), 80) <= 2


def noise(width, height):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
def test_pictures_of_the_right_size_are_unchanged(resize, save):
    image = noise(33, 33)
    assert np.array_equal(read_picture(save(image, "png"), 33, resize), as_pixels(image))


@pytest.mark.parametrize("size", [(61, 97), (97, 62), (300, 41), (20, 31), (32, 57)])
def test_crop_agrees_with_the_resizing_of_tensors(size, save):
    image = noise(*size)
    expected = resize_square(torch.from_numpy(np.array(image)).permute(2, 0, 1), 32)
    assert difference(read_picture(save(image, "png"), 32, "crop"), expected.numpy()) <= 1


def test_bicubic_interpolation_is_that_of_pillow_and_of_tensors(save):
    image = noise(64, 64)
    picture = read_picture(save(image, "png"), 32, "crop", interpolation="bicubic")
    assert np.array_equal(picture, as_pixels(image.resize((32, 32), Image.Resampling.BICUBIC)))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    resized = resize_images(tensor, 32, "crop", "bicubic")
    assert difference(picture, resized.numpy()) <= 1
    assert difference(picture, resize_square(tensor, 32).numpy()) > 1


def test_the_three_ways_to_a_square(save):
    wide = Image.new("RGB", (64, 32), (200, 0, 0))
    wide.paste((0, 0, 200), (16, 0, 48, 32))
    path = save(wide, "png")
    crop, stretch, pad = (read_picture(path, 32, name) for name in ("crop", "stretch", "pad"))
    assert (crop == np.array([0, 0, 200])[:, None, None]).all()
    assert stretch[:, 0, 0].tolist() == stretch[:, 31, 31].tolist() == [200, 0, 0]
    assert stretch[:, 16, 16].tolist() == [0, 0, 200]
    border = np.array(BACKGROUND)[:, None, None]
    assert (pad[:, :8] == border).all()
    assert (pad[:, 24:] == border).all()
    assert np.array_equal(pad[:, 8:24], stretch[:, 8:24])
    with pytest.raises(ValueError, match="resize must be one of crop, stretch, pad, got 'fit'"):
        read_picture(path, 32, "fit")


def test_an_elongated_picture_is_padded_to_at_least_a_pixel(save):
    pixels = read_picture(save(Image.new("RGB", (1, 100)), "png"), 16, "pad")
    assert (pixels == 0).sum() == 3 * 16


def damaged(suffix, share, **options):
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix), **options)
    return buffer.getvalue()[: round(share * buffer.tell())]


def png_of_size(width, height):
    """A PNG that claims to be of a size."""
    content = bytearray(png(8, 0, [b"\0"]))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "suffix", "reason"),
    [
        (b"", "png", "not a picture in a format that Pillow decodes"),
        (b"no picture", "jpg", "not a picture in a format that Pillow decodes"),
        (damaged("png", 0.6), "png", "image file is truncated"),
        (damaged("jpg", 0.6), "jpg", "image file is truncated"),
        (damaged("webp", 0.6), "webp", ""),
        (damaged("bmp", 0.6), "bmp", "image file is truncated"),
        (damaged("tif", 0.6), "tif", ""),
        (damaged("gif", 0.3), "gif", "image file is truncated"),
        (damaged("jpg", 0.02), "jpg", ""),
        (png(8, 0, [b"\0"], [(b"zTXt", b"key\0\0" + zlib.compress(bytes(2**21)))]), "png",
         "Decompressed data too large"),
        (png_of_size(10**5, 10**5), "png", "Image size .* exceeds limit of"),
        (png_of_size(2**31 - 1, 2**31 - 1), "png", "Image size .* exceeds limit of"),
        (png_of_size(1, 2_000_000), "png", "1 x 2000000 pixels, an aspect ratio above 100:1"),
        (png_of_size(101, 1), "png", "101 x 1 pixels, an aspect ratio above 100:1"),
        (png_of_size(0, 5), "png", "not a picture"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_in_one_line(content, suffix, reason, write):
    path = write(content, suffix)
    with pytest.raises(
        ValueError, match=f"^expected a readable image, got {path}: {reason}"
    ) as error:
        read_picture(path, 8, "crop")
    assert str(error.value).isprintable()
    assert len(str(error.value)) > len(f"expected a readable image, got {path}: ")


@pytest.mark.parametrize("times", [1.5, 3])  # a warning, and an error, of Pillow's
def test_pictures_beyond_pillows_limit_are_refused(times, save, monkeypatch):
    path = save(Image.new("L", (round(100 * times), 100)), "png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100)
    with pytest.raises(ValueError, match=r"Image size .* exceeds limit of .*decompression bomb"):
        read_picture(path, 8, "crop")


def test_pillows_limit_can_be_lifted(save, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_picture(save(noise(9, 9), "png"), 8, "crop").shape == (3, 8, 8)


def test_only_regular_files_are_opened(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path, reason in (
        (pipe, "not a regular file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "none.png", "No such file or directory"),
    ):
        with pytest.raises(ValueError, match=f"got {path}: {reason}$"):
            read_picture(str(path), 8, "crop")


def test_only_a_lack_of_memory_for_pixels_is_a_memory_error(save, monkeypatch):
    path = save(blocks(), "png")

    def fail(*_args, **_options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "to_rgb", fail)
        with pytest.raises(MemoryError):
            read_picture(path, 8, "crop")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ValueError, match="its header needs more memory than there is"):
        read_picture(path, 8, "crop")


@pytest.mark.parametrize("name", [b"IDAT", b"tEXt"])
def test_parts_that_claim_to_be_larger_than_the_file_need_no_memory(name, write):
    claimed = struct.pack(">I", 2**30) + name
    content = png(8, 0, [bytes(8)] * 8).replace(bytes(4) + b"IEND", claimed)
    path = write(content, "png")
    tracemalloc.start()
    with suppress(ValueError):
        read_picture(path, 8, "crop")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def damaged_exif(orientation):
    """EXIF data of an orientation, and a tag whose content lies beyond the end."""
    tags = struct.pack("<HHIHH", 274, 3, 1, orientation, 0) + struct.pack("<HHII", 305, 2, 99, 9999)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4)


def jpeg_with_damaged_exif():
    buffer = io.BytesIO()
    stored(blocks(32, 32), 6).save(buffer, "jpeg", exif=damaged_exif(6), **LOSSLESS["jpg"])
    return buffer.getvalue()


def test_pictures_with_damaged_metadata_are_read_without_a_warning(write):
    path = write(jpeg_with_damaged_exif(), "jpg")
    with pytest.warns(UserWarning, match="EXIF|Tag"), Image.open(path) as image:
        image.getexif()
    for filters in ("error", "always"):  # with which a warning would be an error, or recorded
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter(filters)
            assert difference(read_picture(path, 32, "crop"), as_pixels(blocks(32, 32))) <= 4
        assert not shown


def test_damaged_metadata_of_pictures_in_memory_gives_no_warning(save):
    path = save(stored(blocks(32, 32), 6), "png", exif=damaged_exif(6))
    with Image.open(path) as image:  # which does not read the metadata yet
        assert np.array_equal(np.asarray(to_rgb(image)), np.asarray(blocks(32, 32)))


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f"]
)
def test_metadata_that_is_garbage_is_ignored(exif, save):
    pixels = read_picture(save(blocks(32, 32), "png", exif=exif), 32, "crop")
    assert np.array_equal(pixels, as_pixels(blocks(32, 32)))


def test_warnings_of_others_are_still_shown(write):
    read_picture(write(jpeg_with_damaged_exif(), "jpg"), 8, "crop")
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)
    before = list(warnings.filters)
    for _ in range(3):
        read_picture(write(jpeg_with_damaged_exif(), "jpg"), 8, "crop")
    assert list(warnings.filters) == before


def test_threads_read_the_same_pictures_and_show_no_warnings(tmp_path):
    contents = {"a.jpg": jpeg_with_damaged_exif(), "b.png": damaged("png", 1)}
    contents |= {"c.gif": damaged("gif", 1), "d.tif": damaged("tif", 1)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = [str(tmp_path / name) for name in contents] * 20
    expected = {path: read_picture(path, 16, "crop") for path in paths}
    with ThreadPoolExecutor(8) as threads:  # in which warnings would be errors, as in all tests
        read = threads.map(lambda path: read_picture(path, 16, "crop"), paths)
        for path, pixels in zip(paths, read, strict=True):
            assert np.array_equal(pixels, expected[path])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name-1.jpg", "plain name-1.jpg"),
        ("ämne 図 é.jpg", "ämne 図 é.jpg"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x7f\x9b\u2028", r"\x7f\x9b\u2028"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\xe9.jpg"),
        ("\ud800", r"\ud800"),
        ("x" * 200, "x" * 200),
        ("a" * 300 + "b" * 300, "a" * 98 + "..." + "b" * 98),
        ("\n" * 300, r"\n" * 49 + "..." + r"\n" * 49),
        ("", ""),
    ],
)
def test_names_are_escaped_and_short(name, shown):
    assert escaped(name) == shown


@pytest.mark.parametrize("name", [b"a\x1b[31m\n.png", b"\xff\xfe.png", b"n" * 240 + b".png"])
def test_pictures_of_any_name_are_read_and_named_in_one_line(name, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    blocks(8, 8).save(path, "png")
    assert np.array_equal(read_picture(path, 8, "crop"), as_pixels(blocks(8, 8)))
    Path(path).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="expected a readable image") as error:
        read_picture(path, 8, "crop")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 300
