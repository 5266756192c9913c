"""image_folder: what it reads, what it refuses, and its identity. The cache's own contract: test_data_cache.py."""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from brsweep.data import array_cache
from brsweep.data.array_cache import ArrayCache
from brsweep.data.decode import _bits, decode
from brsweep.data.image_folder import ImageFolder
from brsweep.errors import BrsweepError

ROOT = Path(__file__).parents[1]
CLASSES = ("cat", "dog")


def fill(root: Path, seed: int = 0, size: tuple[int, int] = (6, 4)) -> Path:
    """Three training images and one test image per class, as PNG, so that pixels come back exactly."""
    generator = np.random.default_rng(seed)
    for part, count in (("train", 3), ("test", 1)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{index}.png")
    return root


@pytest.fixture
def root(tmp_path) -> Path:
    return fill(tmp_path / "images")


def folder(root: Path, image_size: int | None = None, cache: str = "cache") -> ImageFolder:
    return ImageFolder(str(root), image_size, str(root.parent / cache))


def test_images_come_by_class_and_name_exactly(root):
    (root / "train" / ".hidden").write_text("")
    (root / "train" / "cat" / ".DS_Store").write_text("no image")
    images = folder(root).load()
    assert images.classes == CLASSES
    assert images.train_labels.tolist() == [0, 0, 0, 1, 1, 1] and images.test_labels.tolist() == [0, 1]
    files = [root / "train" / name / f"{index}.png" for name in CLASSES for index in range(3)]
    assert np.array_equal(images.train_images, [np.asarray(Image.open(file)) for file in files])
    assert images.train_images.shape[1:] == (4, 6, 3) and isinstance(images.train_images, np.memmap)


def test_more_files_than_one_piece_keep_their_order(tmp_path):
    root = fill(tmp_path / "images")
    for index in range(700):
        level = np.full((4, 6, 3), index % 256, np.uint8)
        Image.fromarray(level).save(root / "train" / "dog" / f"n{index:03}.png")
    images = folder(root).load()
    assert images.train_images[6:, 2, 3, 1].tolist() == [index % 256 for index in range(700)]


@pytest.mark.parametrize("size", [(50, 31), (31, 50), (24, 24), (7, 9), (27, 24), (24, 27), (24, 25)])
def test_resizing_is_torchvisions(tmp_path, size):
    from brsweep.torchvision_import import import_torchvision

    transforms = import_torchvision().transforms
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    theirs = transforms.Compose([transforms.Resize(24), transforms.CenterCrop(24)])(Image.fromarray(pixels))
    assert np.array_equal(decode(str(tmp_path / "image.png"), 24), np.asarray(theirs))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "CMYK"])
def test_other_modes_become_rgb(tmp_path, mode):
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    grey.convert(mode).save(path)
    assert np.array_equal(decode(str(path), None), np.asarray(Image.open(path).convert("RGB")))
    assert decode(str(path), None).shape == (8, 8, 3)


def png(colour: int, channels: int, bits: int) -> bytes:
    """8x8 pixels of zeros."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 8, 8, bits, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(6)) if colour == 3 else b""
    rows = (b"\0" + bytes(channels * bits)) * 8
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + palette
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tiff(order: str, channels: int, bits: int, form: int = 1) -> bytes:
    """8x8 pixels of zeros. form: 1 unsigned, 2 signed, 3 floating."""
    count = 11
    base = 8 + 2 + 12 * count + 4
    values = bytes(8 * channels * bits)
    lists = struct.pack(f"{order}{channels}H", *[bits] * channels) + struct.pack(
        f"{order}{channels}H", *[form] * channels
    )
    where = {258: base, 339: base + 2 * channels}
    tags = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, channels, bits if channels == 1 else where[258]), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 2 if channels > 2 else 1), (273, 4, 1, base + len(lists)), (277, 3, 1, channels)]
    tags += [(278, 3, 1, 8), (279, 4, 1, len(values)), (284, 3, 1, 1)]
    tags += [(339, 3, channels, form if channels == 1 else where[339])]
    packed = b"".join(
        struct.pack(f"{order}HHI", *tag[:3])
        + struct.pack(
            f"{order}HH" if tag[1] == 3 and tag[2] == 1 else f"{order}I",
            *((tag[3], 0) if tag[1] == 3 and tag[2] == 1 else (tag[3],)),
        )
        for tag in tags
    )
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return start + struct.pack(f"{order}H", count) + packed + struct.pack(f"{order}I", 0) + lists + values


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def codestream(depth: int) -> bytes:
    """A JPEG 2000 codestream whose header says `depth` bits; Pillow looks no further when it opens it."""
    content = bytearray(saved(Image.new("RGB", (8, 8)), "JPEG2000", no_jp2=True))
    place = content.index(b"\xff\x4f\xff\x51") + 42
    content[place : place + 9 : 3] = bytes([depth - 1] * 3)
    return bytes(content)


def sgi(bytes_per_sample: int) -> bytes:
    return struct.pack(">hBBHHHH", 474, 0, bytes_per_sample, 3, 8, 8, 3).ljust(512, b"\0") + bytes(
        8 * 8 * 3 * bytes_per_sample
    )


DEEP = {
    **{f"png colour {c}": png(c, n, 16) for c, n in ((0, 1), (2, 3), (4, 2), (6, 4))},
    **{f"tiff {order}{n}x{bits}": tiff(order, n, bits) for order in "<>" for n, bits in ((1, 16), (3, 16), (4, 16))},
    "tiff 32 bits": tiff("<", 1, 32),
    "tiff float": tiff("<", 1, 32, 3),
    "ppm 65535": b"P6 2 2 65535\n" + bytes(24),
    "ppm 256": b"P6 2 2 256\n" + bytes(24),
    "ppm 1023, plain": b"P3 2 2 1023\n" + b"0 " * 12,
    "pgm 65535": b"P5 2 2 65535\n" + bytes(8),
    "pfm": b"Pf\n2 2\n-1.0\n" + bytes(16),
    "jpeg 2000, 12 bits": codestream(12),
    "jpeg 2000, 16 bits": codestream(16),
    "jpeg 2000, grey": saved(Image.new("I;16", (8, 8)), "JPEG2000"),
    "sgi": sgi(2),
}
SHALLOW = {
    **{f"png colour {c}, {bits} bits": png(c, n, bits) for c, n, bits in ((0, 1, 8), (2, 3, 8), (6, 4, 8), (3, 1, 1))},
    **{f"tiff {order}{n}": tiff(order, n, 8) for order in "<>" for n in (1, 3, 4)},
    "ppm 255": b"P6 2 2 255\n" + bytes(12),
    "ppm 100": b"P6 2 2 100\n" + bytes(12),
    "pbm": b"P1 2 2\n0 1 1 0",
    "jpeg 2000": saved(Image.new("RGB", (8, 8)), "JPEG2000"),
    "sgi": sgi(1),
    **{kind: saved(Image.new("RGB", (8, 8)), kind) for kind in ("JPEG", "BMP", "GIF", "PCX", "TGA", "WEBP")},
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_images_are_refused_in_one_line(tmp_path, name):
    path = tmp_path / "deep.image"
    path.write_bytes(DEEP[name])
    with pytest.raises(BrsweepError, match=r"^[^\n]*deep.image: pixels of more than 8 bits \(\d+\); convert[^\n]*$"):
        decode(str(path), None)


@pytest.mark.parametrize("name", SHALLOW)
def test_images_of_up_to_eight_bits_are_taken(tmp_path, name):
    path = tmp_path / "shallow.image"
    path.write_bytes(SHALLOW[name])
    with Image.open(path) as image:
        assert np.array_equal(decode(str(path), None), np.asarray(image.convert("RGB")))


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif_says_its_depth(tmp_path):
    content = bytearray(saved(Image.new("RGB", (8, 8)), "AVIF"))
    (tmp_path / "image.avif").write_bytes(content)
    assert decode(str(tmp_path / "image.avif"), None).shape == (8, 8, 3)
    with Image.open(io.BytesIO(content)) as image:  # nothing here writes a deeper one
        content[content.index(b"av1C") + 6] |= 64
        assert _bits(image, bytes(content)) == 10


@pytest.mark.parametrize("kind", ["ICO", "DDS", "EPS"])
def test_formats_that_can_not_be_asked_are_refused(tmp_path, kind):
    path = tmp_path / "image"
    path.write_bytes(saved(Image.new("RGB", (16, 16)), kind))
    with pytest.raises(BrsweepError, match=rf"image: {kind} files are not read; convert it to PNG"):
        decode(str(path), None)


def _text(path: Path) -> None:
    path.write_text("not an image")


def _truncated(path: Path) -> None:
    path.write_bytes((path.parent / "0.png").read_bytes()[:60])


def _large(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path)


DAMAGES = {
    "no root": (lambda r: shutil.rmtree(r), ["images", "no folder train/"]),
    "no train": (lambda r: shutil.rmtree(r / "train"), ["no folder train/"]),
    "no test": (lambda r: shutil.rmtree(r / "test"), ["no folder test/"]),
    "empty": (lambda r: [shutil.rmtree(r / p / c) for p in ("train", "test") for c in CLASSES], ["0 class folder"]),
    "one class": (lambda r: [shutil.rmtree(r / p / "dog") for p in ("train", "test")], ["1 class folder", "two"]),
    "class missing in test": (lambda r: shutil.rmtree(r / "test" / "dog"), ["test: no folder for dog", "train/ has"]),
    "class missing in train": (lambda r: shutil.rmtree(r / "train" / "cat"), ["train: no folder for cat", "test/ has"]),
    "empty class": (lambda r: (r / "test" / "cat" / "0.png").unlink(), ["test/cat: no images"]),
    "text": (lambda r: _text(r / "train" / "cat" / "notes.txt"), ["train/cat/notes.txt: not an image"]),
    "truncated": (lambda r: _truncated(r / "test" / "dog" / "0.png"), ["test/dog/0.png: ", "remove or replace"]),
    "other size": (lambda r: _large(r / "train" / "dog" / "9.png"), ["dog/9.png: 8x8", "6x4", "data.image_size"]),
    "stray file": (lambda r: _text(r / "train" / "labels.txt"), ["train/labels.txt: does not belong"]),
    "nested": (lambda r: (r / "train" / "cat" / "more").mkdir(), ["cat/more: does not belong"]),
    "dangling link": (lambda r: (r / "train" / "cat" / "x.png").symlink_to("gone"), ["x.png: does not belong"]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_input_is_one_line_naming_the_place(root, damage):
    harm, words = DAMAGES[damage]
    harm(root)
    with pytest.raises(BrsweepError) as caught:
        folder(root).prepare()
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert not list((root.parent / "cache").glob("*/")), "nothing half-made stays"


@pytest.mark.parametrize("image_size", [0, -3, True, "32", 2.5])
def test_image_size_is_a_whole_number(root, image_size):
    with pytest.raises(BrsweepError, match=r"data.image_size"):
        folder(root, image_size)


def test_a_size_makes_different_images_one(root):
    _large(root / "train" / "dog" / "9.png")
    source = folder(root, 5)
    assert source.load().train_images.shape == (7, 5, 5, 3) and source.identity().endswith(" 5x5")


def test_identity_is_the_contents_own(root, tmp_path):
    source = folder(root)
    with pytest.raises(BrsweepError, match="call prepare first"):
        source.identity()
    source.prepare()
    assert source.identity() == folder(root).identity() and source.identity().endswith(" 6x4")
    shutil.copytree(root, tmp_path / "elsewhere" / "images")  # not the times
    copy = folder(tmp_path / "elsewhere" / "images")
    copy.prepare()
    assert copy.identity() == source.identity()
    other = folder(root, 4)
    other.prepare()
    assert other.identity() != source.identity()


def _change_pixel(root):
    path = root / "train" / "cat" / "1.png"
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(1, 1))  # a clock too coarse to tell the two writes apart would be the test's own trouble


def _rename_class(root):
    for part in ("train", "test"):
        (root / part / "dog").rename(root / part / "fox")


def _move_image(root):
    (root / "train" / "cat" / "2.png").rename(root / "train" / "dog" / "9.png")


@pytest.mark.parametrize("change", [_change_pixel, _rename_class, _move_image])
def test_identity_changes_with_content(root, change):
    source = folder(root)
    source.prepare()
    before = source.identity()
    change(root)
    source.prepare()  # looks again
    assert source.identity() != before


def test_a_name_that_keeps_the_order_does_not_count(root):
    source = folder(root)
    source.prepare()
    before = source.identity()
    (root / "train" / "cat" / "1.png").rename(root / "train" / "cat" / "1b.png")
    source.prepare()
    assert source.identity() == before


def test_decoded_once_and_then_without_lock_or_images(root, monkeypatch):
    folder(root).prepare()
    monkeypatch.setattr(ArrayCache, "_locked", None)  # a folder that may only be read has no lock to take
    monkeypatch.setattr(ArrayCache, "_make", None)
    source = folder(root)
    source.prepare()
    images = source.load()
    monkeypatch.setattr(array_cache, "_open", None)
    assert source.load() is images


def test_a_cache_folder_that_cannot_be_made(root):
    (root.parent / "file").write_text("")
    with pytest.raises(BrsweepError, match=r"data.cache_dir=.*file/cache: cannot be written to") as caught:
        folder(root, cache="file/cache").prepare()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_folder(root):
    (root.parent / "cache").mkdir(mode=0o500)
    with pytest.raises(BrsweepError, match=r"data.cache_dir=.*cannot be written to \(Permission denied\)"):
        folder(root).prepare()


def test_a_full_disk(tmp_path):
    """A limit on the size of files stands in for the disk: the same error path, from the same write."""
    root = fill(tmp_path / "images", size=(64, 64))
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from brsweep.data.image_folder import ImageFolder\n"
        "from brsweep.errors import BrsweepError\n"
        "try: ImageFolder(sys.argv[1], None, sys.argv[2]).prepare()\n"
        "except BrsweepError as error: print(error)"
    )
    arguments = [sys.executable, "-c", code, str(root), str(tmp_path / "cache")]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "" and done.stdout.count("\n") == 1
    assert f"data.cache_dir={tmp_path / 'cache'}: cannot be written to (File too large)" in done.stdout
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
