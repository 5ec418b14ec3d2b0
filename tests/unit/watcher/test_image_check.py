"""The check of one picture."""

from __future__ import annotations

import hashlib
import io
import os
import random
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from image_sync.watcher.image_check import ImageCheck, examine, jpeg_size, structure
from image_sync.watcher.rules import Rules
from support.pictures import drawn, encoded, jpeg, png

JPEG, PNG = jpeg(width=200, height=150), png(width=60, height=50)


def check(folder: Path, content: bytes, name: str = "a.jpg", rules: Rules | None = None) -> ImageCheck:
    """The verdict on a file of this name and content."""
    path = folder / name
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        verdict = examine(fd, len(content), os.fsencode(name), rules or Rules(), threading.Event())
    finally:
        os.close(fd)
    assert verdict is not None
    return verdict


def mpo() -> bytes:
    """Several JPEGs in one file, as some cameras make."""
    return encoded(drawn(), "MPO", save_all=True, append_images=[drawn(seed=1)])


GOOD = {
    "plain": JPEG,
    "progressive": encoded(drawn(90, 70), "JPEG", progressive=True),
    "cmyk": encoded(drawn(mode="CMYK"), "JPEG"),
    "grey": encoded(drawn(mode="L"), "JPEG"),
    "restart markers": encoded(drawn(90, 70), "JPEG", restart_marker_rows=1),
    "optimised flat": encoded(Image.new("L", (500, 500)), "JPEG", optimize=True),
    "exif with a thumbnail": encoded(drawn(90, 70), "JPEG", exif=b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\0" + jpeg(3)),
    "large profile": encoded(drawn(), "JPEG", icc_profile=random.Random(1).randbytes(300_000)),
    "several pictures": mpo(),
    "a trailer": JPEG + b"\x50\x4b\x03\x04" + b"motion" * 10_000,
    "a little padding": JPEG + b"\0" * 600,
    "fill bytes": JPEG[:2] + b"\xff\xff\xff" + JPEG[2:-2] + b"\xff\xff\xff\xd9",
    "a comment of FF": JPEG[:2] + b"\xff\xfe\x00\x08" + b"\xff\xd9\xff\xd9\xff\xd9" + JPEG[2:],
}
GOOD_PNG = {
    "plain": PNG,
    "palette": encoded(drawn().convert("P"), "PNG"),
    "one bit": encoded(drawn().convert("1"), "PNG"),
    "16 bit": encoded(Image.new("I;16", (9, 9), 40_000), "PNG"),
    "transparent": encoded(drawn(mode="RGBA"), "PNG"),
    "animated": encoded(drawn(), "PNG", save_all=True, append_images=[drawn(seed=1)]),
    "a trailer": PNG + b"more",
}


@pytest.mark.parametrize("validate", ["header", "full"])
@pytest.mark.parametrize("kind", GOOD)
def test_sound_jpegs_pass(tmp_path, kind, validate):
    """Every usual kind of JPEG is sound, and hash and size are those of the file."""
    verdict = check(tmp_path, GOOD[kind], rules=Rules(validate=validate))
    with Image.open(io.BytesIO(GOOD[kind])) as image:
        assert verdict == ImageCheck(hashlib.sha256(GOOD[kind]).hexdigest(), "jpg", "", *image.size)


@pytest.mark.parametrize("validate", ["header", "full"])
@pytest.mark.parametrize("kind", GOOD_PNG)
def test_sound_pngs_pass(tmp_path, kind, validate):
    """Every usual kind of PNG is sound."""
    verdict = check(tmp_path, GOOD_PNG[kind], "a.PNG", Rules(validate=validate))
    with Image.open(io.BytesIO(GOOD_PNG[kind])) as image:
        assert verdict == ImageCheck(hashlib.sha256(GOOD_PNG[kind]).hexdigest(), "png", "", *image.size)


@pytest.mark.parametrize(
    ("content", "name", "suffix"),
    [(PNG, "a.jpg", "png"), (JPEG, "a.png", "jpg"), (JPEG, "a.JPEG", "jpeg"), (JPEG, "a.Jpg", "jpg")],
)
def test_the_suffix_comes_from_the_content_where_the_name_lies(tmp_path, content, name, suffix):
    """A PNG named .jpg is sound, as a PNG."""
    verdict = check(tmp_path, content, name)
    assert (verdict.suffix, verdict.fault) == (suffix, "")


@pytest.mark.parametrize("source", ["JPEG", "PNG"])
def test_no_beginning_of_a_picture_passes(tmp_path, source):
    """Cut anywhere, by two bytes or by nearly all, a picture is cut short or not even known for one."""
    content = {"JPEG": JPEG, "PNG": PNG}[source]
    for length in [*range(1, 700, 7), len(content) * 6 // 10, *range(len(content) - 9, len(content))]:
        verdict = check(tmp_path, content[:length])
        assert verdict.fault, length
        if length > 8:
            assert f"cut short: a {source} must end with" in verdict.fault
            assert "copy it again" in verdict.fault


@pytest.mark.parametrize("content", [JPEG, PNG])
def test_a_preallocated_copy_does_not_pass(tmp_path, content):
    """A file of the final size whose second half is still zero is refused."""
    half = len(content) // 2
    assert "copy it again" in check(tmp_path, content[:half] + bytes(len(content) - half)).fault
    assert "zero bytes" in check(tmp_path, bytes(len(content))).fault
    assert "zero bytes" in check(tmp_path, content + bytes(100_000)).fault


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"GIF89a" + b"x" * 50, "a GIF image"),
        (b"II*\0" + b"x" * 50, "a TIFF"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "a WebP image"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "a video"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC image"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        (b"\0\0\0\x0cftypavif\0\0\0\0", "an AVIF image"),
        (b"BM" + b"x" * 50, "a BMP image"),
        (b"%PDF-1.7", "a PDF document"),
        (b"PK\x03\x04", "a ZIP archive"),
        (b"\x7fELF\x02", "a program"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><p>429", "a web page"),
        (b"<?xml version='1.0'?><svg/>", "an SVG or XML document"),
        (b"not a picture\n", "a text file"),
        (b"\x01\x02\x03", "something else"),
        (bytes(500), "nothing but zero bytes"),
    ],
)
def test_other_files_are_named_for_what_they_look_like(tmp_path, content, says):
    """A person reads what the file seems to be, and what to do."""
    fault = check(tmp_path, content).fault
    assert says in fault
    assert "save it as JPEG or PNG" in fault or "copy it again" in fault


def png_header(width: int, height: int) -> bytes:
    """A PNG without a picture."""
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    end = b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + ihdr + struct.pack(">I", zlib.crc32(ihdr)) + end


def with_size(content: bytes, width: int, height: int) -> bytes:
    """The JPEG, with a header that lies."""
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (png_header(20_000, 20_000), "400,000,000 pixels"),
        (png_header(0, 10), "width is zero"),
        (png_header(10, 0), "no height"),
        (with_size(JPEG, 65_500, 65_500), "4,290,250,000 pixels"),
        (with_size(JPEG, 0, 10), "no width"),
        (b"\xff\xd8\xff\xd9", "no picture in it"),
    ],
)
def test_impossible_and_huge_dimensions_are_refused_without_decoding(tmp_path, content, says):
    """A few bytes that promise a picture of gigabytes are refused by their header, also in full mode."""
    tracemalloc.start()
    try:
        fault = check(tmp_path, content, rules=Rules(validate="full")).fault
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert says in fault


def test_a_file_beyond_the_size_limit_is_not_read(tmp_path):
    """The limit is named; the content is not even hashed."""
    verdict = check(tmp_path, JPEG, rules=Rules(max_bytes=1000))
    assert "the limit is 1,000" in verdict.fault
    assert verdict.sha256 == ""


def test_a_damaged_png_is_found_by_its_checksums(tmp_path):
    """One flipped bit in the picture's data is found, one in a comment does not matter."""
    at = PNG.index(b"IDAT") + 40
    broken = PNG[:at] + bytes([PNG[at] ^ 1]) + PNG[at + 1 :]
    assert "the checksum of its part IDAT is wrong" in check(tmp_path, broken).fault
    comment = b"\0\0\0\x05tEXta\0b\0c" + b"nono"
    assert check(tmp_path, PNG[:33] + comment + PNG[33:]).fault == ""


def test_only_full_validation_finds_what_only_a_decoder_finds(tmp_path):
    """A JPEG whose tables are destroyed passes the header check and fails to decode."""
    at = JPEG.index(b"\xff\xc4") + 5
    broken = JPEG[:at] + b"\xfe" * 16 + JPEG[at + 16 :]
    assert check(tmp_path, broken).fault == ""
    assert "cannot be decoded" in check(tmp_path, broken, rules=Rules(validate="full")).fault


def test_a_picture_within_our_limit_is_no_bomb_to_the_decoder(tmp_path):
    """The limit of the rules replaces Pillow's own, and nothing is warned of."""
    content = encoded(Image.new("1", (10_000, 9_500)), "PNG")
    assert check(tmp_path, content, rules=Rules(validate="full", max_pixels=95_000_000)).fault == ""


def test_oddities_in_metadata_are_not_warned_of(tmp_path):
    """Pillow's warnings about a picture (errors in this suite) stay inside."""
    broken_exif = encoded(drawn(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert check(tmp_path, broken_exif, rules=Rules(validate="full")).fault == ""


@pytest.fixture
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have files read in pieces of so many bytes."""
    return lambda size: monkeypatch.setattr("image_sync.watcher.image_check._PIECE", size)


@pytest.mark.parametrize("size", [17, 50, 4096, 70_000])
def test_pieces_of_any_size_give_the_same_answer(tmp_path, tiny_pieces, size):
    """However a file is cut into pieces, it is followed to the same end."""
    for content, name in [(one, "a.jpg") for one in GOOD.values()] + [(one, "a.png") for one in GOOD_PNG.values()]:
        whole = check(tmp_path, content, name)
        path = tmp_path / name
        tiny_pieces(size)
        with path.open("rb") as file:
            found = structure(file.fileno(), content[:size], through=True)
        assert (found.complete, found.width, found.height, found.damage) == (True, whole.width, whole.height, "")
        assert check(tmp_path, content, name) == whole
        tiny_pieces(1 << 20)


@pytest.mark.parametrize("seed", range(5))
def test_noise_never_breaks_the_check(tmp_path, seed):
    """Random changes in a picture, or random bytes behind its magic number, give a verdict, never an exception."""
    chance = random.Random(seed)
    for source in (JPEG[:3000], PNG[:3000], b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"):
        for _ in range(20):
            content = bytearray(source + chance.randbytes(chance.randrange(200)))
            for _ in range(chance.randrange(30)):
                content[chance.randrange(3, len(content))] = chance.randrange(256)
            assert len(check(tmp_path, bytes(content)).sha256) == 64


def test_memory_does_not_grow_with_the_file(tmp_path):
    """A JPEG of 64 MB is checked and hashed in a few."""
    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.write(JPEG[:-2])
        for _ in range(64):
            file.write(b"\x55" * (1 << 20))
        file.write(b"\xff\xd9")
    fd = os.open(path, os.O_RDONLY)
    tracemalloc.start()
    try:
        verdict = examine(fd, path.stat().st_size, b"a.jpg", Rules(), threading.Event())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        os.close(fd)
    assert verdict is not None
    assert verdict.fault == ""
    assert peak < 6_000_000


def test_stop_ends_the_reading(tmp_path):
    """Nothing is said of a file whose reading was interrupted."""
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG)
    stop = threading.Event()
    stop.set()
    fd = os.open(path, os.O_RDONLY)
    assert examine(fd, len(JPEG), b"a.jpg", Rules(), stop) is None
    os.close(fd)


@pytest.mark.parametrize("name", GOOD)
def test_the_quick_way_to_a_size_agrees_with_the_walk(tmp_path, tiny_pieces, name):
    """Where the quick look at a JPEG's headers gives a size, the walk through them finds the same one and no damage,
    also in damaged files; in sound ones whose headers are plain it does give one."""
    chance, path = random.Random(name), tmp_path / "a.jpg"
    for number in range(100):
        content = bytearray(GOOD[name])
        for _ in range(number and chance.randint(1, 3)):
            content[chance.randrange(3, min(len(content), 700))] = chance.randrange(256)
        quick = jpeg_size(bytes(content))
        if number == 0:
            assert (quick == (0, 0)) == (name == "fill bytes")
        if not all(quick):
            continue
        path.write_bytes(content)
        with path.open("rb") as file:
            tiny_pieces(4096)
            found = structure(file.fileno(), b"\xff\xd8\xff", through=False)
        assert (found.width, found.height, found.damage) == (*quick, "")
