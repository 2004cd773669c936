"""Files decoded in the graph: the pixels are Pillow's, and a bad file harms nobody."""

import io
import resource
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from leuko_tf.network.layers import CellScaling
from leuko_tf.savedmodel.decoding import MAX_JPEG_SCANS, MAX_PIXELS, decode

SIZE = 48
FILES = tf.TensorSpec((None,), tf.string)


@pytest.fixture(scope="module")
def decoded():
    """For a network whose field is its input, so that images of this size stay as they are."""
    return tf.function(lambda files: decode(files, SIZE, SIZE), input_signature=[FILES])


def smooth(height: int = SIZE, width: int = SIZE) -> np.ndarray:
    grains = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    return cv2.resize(grains, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(image: Image.Image, form: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


RGB = Image.fromarray(smooth())
RGBA = Image.fromarray(np.dstack([smooth(), smooth()[:, ::-1, 0]]))
PALETTE = RGB.quantize(100)
TURNED = Image.Exif()
TURNED[274] = 6
PNG, JPEG = encode(RGB, "PNG"), encode(RGB, "JPEG", quality=90)


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def blank_png(width: int, height: int) -> bytes:
    """A valid PNG of one bit a pixel."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, id=name)
        for name, file in {
            "PNG": PNG,
            "alpha is dropped": encode(RGBA, "PNG"),
            "grey": encode(RGB.convert("L"), "PNG"),
            "grey with alpha": encode(RGBA.convert("LA"), "PNG"),
            "one bit": encode(RGB.convert("1"), "PNG"),
            "palette": encode(PALETTE, "PNG"),
            "palette, one clear": encode(PALETTE, "PNG", transparency=3),
            "one colour clear": encode(RGB, "PNG", transparency=(1, 2, 3)),
            "16 bits": cv2.imencode(".png", smooth().astype(np.uint16) * 256 + 77)[1].tobytes(),
            "gamma": PNG[:33] + chunk(b"gAMA", struct.pack(">I", 10**5)) + PNG[33:],
            "JPEG": JPEG,
            "JPEG 4:4:4": encode(RGB, "JPEG", subsampling=0),
            "JPEG progressive": encode(RGB, "JPEG", progressive=True),
            "JPEG grey": encode(RGB.convert("L"), "JPEG"),
            "JPEG CMYK": encode(RGB.convert("CMYK"), "JPEG"),
            "JPEG orientation is ignored": encode(RGB, "JPEG", exif=TURNED),
        }.items()
    ],
)
def test_pixels_are_those_of_pillow(decoded, file: bytes) -> None:
    (image,), (valid,), (problem,) = decoded([file])
    assert (valid.numpy(), problem.numpy()) == (True, b"")
    expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    np.testing.assert_array_equal(image, expected)


def test_grey_of_16_bits_is_cut_to_its_higher_byte(decoded) -> None:
    grey = smooth()[..., 0]
    file = encode(Image.fromarray(grey.astype(np.uint16) * 256 + 200), "PNG")
    np.testing.assert_array_equal(decoded([file])[0][0, ..., 0], grey)


@pytest.mark.parametrize("field", [SIZE, 50, 400])
def test_files_of_other_sizes_are_seen_as_the_network_would(field: int) -> None:
    decoded = tf.function(lambda files: decode(files, field, SIZE), input_signature=[FILES])
    sizes = [(SIZE, SIZE), (90, 31), (1, 1), (7, 400)]
    pictures = [smooth(*size) for size in sizes]
    images, valid, _ = decoded([encode(Image.fromarray(p), "PNG") for p in pictures])
    assert valid.numpy().all()
    for image, picture in zip(images, pictures, strict=True):
        expected = 255 * CellScaling(SIZE, field)(picture[np.newaxis])[0]
        np.testing.assert_allclose(image, expected, atol=1e-3)


OTHER, BAD_PNG, BAD_JPEG = "not a PNG or JPEG image", "damaged PNG", "damaged JPEG"
LIMIT = f"pixels are more than the limit of {MAX_PIXELS}"
BAD = [
    (b"", OTHER),
    (b"a cell", OTHER),
    *((encode(RGB, form), OTHER) for form in ("GIF", "BMP", "WEBP", "TIFF")),
    (PNG[:8], BAD_PNG),  # the signature alone
    (PNG[:33], BAD_PNG),  # and the header
    (PNG[: len(PNG) // 2], BAD_PNG),
    (PNG[:-12], BAD_PNG),  # without its end
    (PNG[:-14] + b"ab" + PNG[-12:], BAD_PNG),  # a wrong checksum
    (PNG[:8] + chunk(b"tEXt", b"a\0b") + PNG[8:], BAD_PNG),  # another chunk first
    (PNG[:16] + b"\0\0\0\0" + PNG[20:], BAD_PNG),  # no width
    (JPEG[:3], BAD_JPEG),
    (JPEG[: len(JPEG) // 2], BAD_JPEG),
    (JPEG[:-2], BAD_JPEG),  # without its end
    (blank_png(2049, 2048), f"2049x2048 {LIMIT}"),
    (PNG[:16] + b"\xff\xff\xff\xff" * 2 + PNG[24:], f"4294967295x4294967295 {LIMIT}"),
    (encode(Image.new("L", (300, 14000)), "JPEG", quality=5), f"300x14000 {LIMIT}"),
]


def test_bad_files_are_told_and_do_not_disturb_the_good_ones(decoded) -> None:
    files = [PNG, *(file for file, _ in BAD), JPEG]
    images, valid, problems = decoded(files)
    expected = ["", *(problem for _, problem in BAD), ""]
    assert [p.decode() for p in problems.numpy()] == expected
    assert valid.numpy().tolist() == [p == "" for p in expected]
    assert not images[1:-1].numpy().any()
    np.testing.assert_array_equal(images[0], smooth())
    np.testing.assert_array_equal(images[-1], Image.open(io.BytesIO(JPEG)))


def test_image_at_the_limit_is_taken(decoded) -> None:
    """No side may be above a million, by libpng itself."""
    assert decoded([blank_png(2048, 2048), blank_png(1_000_000, 4)])[1].numpy().all()


def test_jpeg_of_many_scans_is_refused(decoded) -> None:
    """16 bytes a scan, each of which costs a pass over all pixels."""
    file = encode(RGB, "JPEG", progressive=True, quality=10)
    scan = file[file.rindex(b"\xff\xda") : -2]
    _, _, (few, many) = decoded([file[:-2] + n * scan + b"\xff\xd9" for n in (5, 1000)])
    assert few == b""
    assert many == f"JPEG of more than {MAX_JPEG_SCANS} scans".encode()


def test_no_file_gives_no_image(decoded) -> None:
    images, valid, problems = decoded(tf.zeros((0,), tf.string))
    assert images.shape == (0, SIZE, SIZE, 3)
    assert valid.shape == problems.shape == (0,)


def test_pixels_of_a_refused_image_are_not_allocated(decoded) -> None:
    file = blank_png(20_000, 20_000)
    assert len(file) < 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not decoded([file])[1].numpy().any()
    allocated = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert allocated < 20_000**2 / 8


def test_damaged_files_neither_raise_nor_leak(decoded) -> None:
    rng = np.random.default_rng(0)

    def damaged(file: bytes) -> bytes:
        content = bytearray(file[: rng.integers(len(file))] if rng.random() < 0.3 else file)
        for place in rng.integers(0, max(1, len(content)), rng.integers(1, 9)):
            content[place : place + 1] = rng.bytes(rng.integers(0, 3))
        return bytes(content)

    def memory() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    def ask() -> None:
        images, valid, problems = decoded(
            [PNG, *(damaged(f) for f in (PNG, JPEG) for _ in range(25)), rng.bytes(300), JPEG]
        )
        assert valid[0]
        assert valid[-1]
        np.testing.assert_array_equal(valid, problems.numpy() == b"")
        np.testing.assert_array_equal(images[0], smooth())

    for _ in range(10):
        ask()
    before = memory()
    for _ in range(30):
        ask()
    assert memory() < 1.05 * before
