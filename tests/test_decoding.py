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

from leuko_tf.savedmodel.decoding import MAX_JPEG_SCANS, MAX_PIXELS, decode

SIZE = 48
FILES = tf.TensorSpec((None,), tf.string)


@pytest.fixture(scope="module")
def decoded():
    """Of a network that looks at as many pixels as it takes: such images stay as they are."""
    return tf.function(lambda files: decode(files, SIZE, SIZE), input_signature=[FILES])


def smooth(height: int = SIZE, width: int = SIZE) -> np.ndarray:
    grains = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    return cv2.resize(grains, (width, height), interpolation=cv2.INTER_CUBIC)


def written(image: Image.Image, form: str, **settings) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **settings)
    return file.getvalue()


RGB = Image.fromarray(smooth())
RGBA = Image.fromarray(np.dstack([smooth(), smooth()[:, ::-1, 0]]))
PALETTE = RGB.quantize(100)
TURNED = Image.Exif()
TURNED[274] = 6
PNG, JPEG = written(RGB, "PNG"), written(RGB, "JPEG", quality=90)


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def blank_png(width: int, height: int) -> bytes:
    """A true PNG of one bit a pixel."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(PNG, id="PNG"),
        pytest.param(written(RGBA, "PNG"), id="alpha is dropped"),
        pytest.param(written(RGB.convert("L"), "PNG"), id="grey"),
        pytest.param(written(RGBA.convert("LA"), "PNG"), id="grey with alpha"),
        pytest.param(written(RGB.convert("1"), "PNG"), id="one bit"),
        pytest.param(written(PALETTE, "PNG"), id="palette"),
        pytest.param(written(PALETTE, "PNG", transparency=3), id="palette, one clear"),
        pytest.param(written(RGB, "PNG", transparency=(1, 2, 3)), id="one colour clear"),
        pytest.param(
            cv2.imencode(".png", smooth().astype(np.uint16) * 256 + 77)[1].tobytes(), id="16 bits"
        ),
        pytest.param(PNG[:33] + chunk(b"gAMA", struct.pack(">I", 10**5)) + PNG[33:], id="gamma"),
        pytest.param(JPEG, id="JPEG"),
        pytest.param(written(RGB, "JPEG", subsampling=0), id="JPEG 4:4:4"),
        pytest.param(written(RGB, "JPEG", progressive=True), id="JPEG progressive"),
        pytest.param(written(RGB.convert("L"), "JPEG"), id="JPEG grey"),
        pytest.param(written(RGB.convert("CMYK"), "JPEG"), id="JPEG CMYK"),
        pytest.param(written(RGB, "JPEG", exif=TURNED), id="JPEG orientation is ignored"),
    ],
)
def test_pixels_are_those_of_pillow(decoded, file: bytes) -> None:
    (image,), (valid,), (problem,) = decoded([file])
    assert (valid.numpy(), problem.numpy()) == (True, b"")
    expected = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    np.testing.assert_array_equal(image, expected)


def test_grey_of_16_bits_is_cut_to_its_higher_byte(decoded) -> None:
    grey = smooth()[..., 0]
    file = written(Image.fromarray(grey.astype(np.uint16) * 256 + 200), "PNG")
    np.testing.assert_array_equal(decoded([file])[0][0, ..., 0], grey)


@pytest.mark.parametrize("field", [SIZE, 50, 400])
def test_files_of_other_sizes_are_seen_as_the_network_would(field: int) -> None:
    from leuko_tf.network.layers import CellScaling

    decoded = tf.function(lambda files: decode(files, field, SIZE), input_signature=[FILES])
    sizes = [(SIZE, SIZE), (90, 31), (1, 1), (7, 400)]
    pictures = [smooth(*size) for size in sizes]
    images, valid, _ = decoded([written(Image.fromarray(p), "PNG") for p in pictures])
    assert valid.numpy().all()
    for image, picture in zip(images, pictures, strict=True):
        expected = 255 * CellScaling(SIZE, field)(picture[np.newaxis])[0]
        np.testing.assert_allclose(image, expected, atol=1e-3)


BAD = {
    "empty": (b"", "not a PNG or JPEG image"),
    "text": (b"a cell", "not a PNG or JPEG image"),
    "GIF": (written(RGB, "GIF"), "not a PNG or JPEG image"),
    "BMP": (written(RGB, "BMP"), "not a PNG or JPEG image"),
    "WebP": (written(RGB, "WEBP"), "not a PNG or JPEG image"),
    "TIFF": (written(RGB, "TIFF"), "not a PNG or JPEG image"),
    "PNG's signature": (PNG[:8], "damaged PNG"),
    "PNG's header": (PNG[:33], "damaged PNG"),
    "half a PNG": (PNG[: len(PNG) // 2], "damaged PNG"),
    "PNG without its end": (PNG[:-12], "damaged PNG"),
    "PNG with a wrong checksum": (PNG[:-14] + b"ab" + PNG[-12:], "damaged PNG"),
    "PNG with another chunk first": (PNG[:8] + chunk(b"tEXt", b"a\0b") + PNG[8:], "damaged PNG"),
    "PNG of no width": (PNG[:16] + b"\0\0\0\0" + PNG[20:], "damaged PNG"),
    "JPEG's start": (JPEG[:3], "damaged JPEG"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "damaged JPEG"),
    "JPEG without its end": (JPEG[:-2], "damaged JPEG"),
    "large": (
        blank_png(2049, 2048),
        f"2049x2048 pixels are more than the limit of {MAX_PIXELS}",
    ),
    "huge by its header": (
        PNG[:16] + b"\xff\xff\xff\xff" * 2 + PNG[24:],
        f"4294967295x4294967295 pixels are more than the limit of {MAX_PIXELS}",
    ),
    "large JPEG": (
        written(Image.new("L", (300, 14000)), "JPEG", quality=5),
        f"300x14000 pixels are more than the limit of {MAX_PIXELS}",
    ),
}


def test_bad_files_are_told_and_do_not_disturb_the_good_ones(decoded) -> None:
    files = [PNG, *(file for file, _ in BAD.values()), JPEG]
    images, valid, problems = decoded(files)
    expected = ["", *(problem for _, problem in BAD.values()), ""]
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
    file = written(RGB, "JPEG", progressive=True, quality=10)
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
