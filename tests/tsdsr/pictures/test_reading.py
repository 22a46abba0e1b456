import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from tsdsr.errors import UserError
from tsdsr.pictures.formats import FORMATS, Content, by_kind
from tsdsr.pictures.png import PngWriter
from tsdsr.pictures.reading import read_picture, read_size

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> io.BytesIO:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    stream.seek(0)
    return stream


def sixteen_bit_tiff(orientation: int) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, RGB.astype(np.uint16) * 257, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    return stream.getvalue()


def lzw_tiff(orientation: int) -> bytes:
    """Only OpenCV writes LZW here, and no orientation: the tag that says that channels are interleaved becomes one."""
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 5]
    data = cv2.imencode(".tif", RGB[..., ::-1].astype(np.uint16) * 257, options)[1].tobytes()
    interleaved, turned = (struct.pack("<HHIHH", *entry) for entry in ((284, 3, 1, 1, 0), (274, 3, 1, orientation, 0)))
    assert data.count(interleaved) == 1
    return data.replace(interleaved, turned)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation: int, kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    path = tmp_path / "a"
    path.write_bytes(encoded(Image.fromarray(RGB), kind, exif=exif, lossless=True).getvalue())
    picture = read_picture(path, "a")
    shown = Image.open(encoded(Image.fromarray(RGB), kind, lossless=True))
    expected = ImageOps.exif_transpose(Image.open(encoded(shown, exif=exif)))
    np.testing.assert_array_equal(picture.values, np.asarray(expected))
    assert read_size(path) == expected.size
    assert 0x0112 not in picture.exif
    assert picture.exif[0x010F] == "Maker"


@pytest.mark.parametrize("made", [sixteen_bit_tiff, lzw_tiff])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_sixteen_bits_is_applied_once(orientation: int, made: Callable[[int], bytes]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = ImageOps.exif_transpose(Image.open(encoded(Image.fromarray(RGB), exif=exif)))
    picture = read_picture(io.BytesIO(made(orientation)), "a")
    np.testing.assert_array_equal(picture.values, np.asarray(expected).astype(np.uint16) * 257)


def test_sixteen_bits_of_grey_where_zero_is_white_are_no_negative() -> None:
    pixels = RNG.integers(0, 65536, (20, 30), np.uint16)
    stream = io.BytesIO()
    tifffile.imwrite(stream, 65535 - pixels, photometric="miniswhite")
    stream.seek(0)
    np.testing.assert_array_equal(read_picture(stream, "a").values[..., 0], pixels)


def test_sixteen_bits_in_separate_channels() -> None:
    pixels = RNG.integers(0, 65536, (20, 30, 3), np.uint16)
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    stream.seek(0)
    picture = read_picture(stream, "a")
    np.testing.assert_array_equal(picture.values, pixels)
    assert 270 not in picture.exif  # a description that tifffile made of this file's shape


def test_sixteen_bits_multiplied_by_alpha_are_divided_by_it() -> None:
    pixels = np.full((20, 30, 4), (10_000, 5_000, 0, 20_000), np.uint16)
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, photometric="rgb", extrasamples=["assocalpha"])
    stream.seek(0)
    picture = read_picture(stream, "a")
    np.testing.assert_allclose(picture.values[0, 0].astype(int), [32_768, 16_384, 0], atol=1)  # libvips cuts
    assert (picture.alpha == 20_000).all()


def test_sixteen_bits_of_grey_with_alpha() -> None:
    grey, alpha = RNG.integers(0, 65536, (2, 20, 30), np.uint16)
    writer = PngWriter(stream := io.BytesIO(), (20, 30), channels=1, alpha=True, bits=16)
    writer.write(np.dstack([grey, alpha]))
    writer.close()
    stream.seek(0)
    picture = read_picture(stream, "a")
    assert (picture.channels, picture.bits) == (1, 16)
    np.testing.assert_array_equal(picture.values[..., 0], grey)
    np.testing.assert_array_equal(picture.alpha, alpha)


@pytest.mark.parametrize(
    ("mode", "channels", "alpha"),
    [("L", 1, False), ("LA", 1, True), ("RGB", 3, False), ("RGBA", 3, True), ("P", 3, False), ("1", 1, False)],
)
def test_modes(mode: str, channels: int, alpha: bool) -> None:
    image = Image.fromarray(np.dstack([RGB, RGB[..., 0]]) if alpha else RGB).convert(mode)
    picture = read_picture(encoded(image), "x")
    assert (picture.channels, picture.alpha is not None, picture.bits) == (channels, alpha, 8)
    shown = np.asarray(image.convert({1: "L", 3: "RGB"}[channels]))
    np.testing.assert_array_equal(picture.values.squeeze(), shown)
    assert picture.planes().shape == (1, 3, 20, 30)


def test_a_transparent_colour_is_alpha() -> None:
    picture = read_picture(encoded(Image.fromarray(RGB), transparency=tuple(RGB[3, 4].tolist())), "x")
    assert picture.alpha is not None
    assert picture.alpha[3, 4] == 0
    assert picture.alpha.mean() > 250
    grey = RNG.integers(0, 65536, (20, 30), np.uint16)
    deep = encoded(Image.fromarray(grey)).getvalue()
    chunk = b"tRNS" + int(grey[3, 4]).to_bytes(2, "big")
    deep = deep[:33] + b"\0\0\0\2" + chunk + zlib.crc32(chunk).to_bytes(4, "big") + deep[33:]
    picture = read_picture(io.BytesIO(deep), "x")
    np.testing.assert_array_equal(picture.alpha, np.where(grey == grey[3, 4], 0, 65535))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_stay(suffix: str, channels: int, tmp_path: Path) -> None:
    pixels = RNG.integers(0, 65536, (20, 30, channels), np.uint16)
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        cv2.imwrite(str(path), pixels[..., [2, 1, 0, 3][:channels]] if channels > 1 else pixels)
    else:
        extra = ["unassalpha"] if channels == 4 else None
        photometric = "rgb" if channels > 1 else "minisblack"
        tifffile.imwrite(path, pixels.squeeze(), photometric=photometric, extrasamples=extra)
    picture = read_picture(path, "a")
    assert picture.bits == 16
    np.testing.assert_array_equal(picture.values, pixels[..., :3])
    if channels == 4:
        np.testing.assert_array_equal(picture.alpha, pixels[..., 3])


def test_cmyk_becomes_rgb_without_its_profile() -> None:
    image = Image.fromarray(RGB).convert("CMYK")
    picture = read_picture(encoded(image, "JPEG", quality=95), "x")
    assert picture.channels == 3
    assert picture.icc is None


def test_the_profile_comes_along() -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read_picture(encoded(Image.fromarray(RGB), icc_profile=icc), "x").icc == icc


def animated() -> bytes:
    frames = [Image.fromarray(RNG.integers(0, 256, (20, 20), np.uint8)) for _ in range(3)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]).getvalue()


def swollen(chunk: bytes, head: bytes) -> bytes:
    """A PNG file with a chunk of metadata that is small compressed and 80 MB large."""
    data = encoded(Image.fromarray(RGB)).getvalue()
    body = chunk + head + zlib.compress(bytes(80_000_000))
    return data[:33] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]


def sixteen_bit_png() -> bytes:
    return cv2.imencode(".png", RNG.integers(0, 65536, (20, 30, 3), np.uint16))[1].tobytes()


def cmyk_tiff() -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, RNG.integers(0, 65536, (20, 30, 4), np.uint16), photometric="separated")
    return stream.getvalue()


def float_tiff() -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, RGB.astype(np.float32), photometric="rgb")
    return stream.getvalue()


def enormous() -> bytes:
    data = bytearray(encoded(Image.fromarray(RGB)).getvalue())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"not a picture at all", "not a picture"),
        (encoded(Image.fromarray(RGB), "JPEG").getvalue()[:-200], "truncated"),
        (encoded(Image.fromarray(RGB)).getvalue()[:300], "truncated"),
        (animated(), "3 frames"),
        (enormous(), "too large"),
        (swollen(b"iCCP", b"name\0\0"), "damaged"),
        (swollen(b"zTXt", b"name\0\0"), "damaged"),
        (sixteen_bit_png()[:-1000], "truncated"),
        (sixteen_bit_tiff(1)[:1000], "damaged"),
        (cmyk_tiff(), "CMYK; save it in RGB"),
        (float_tiff(), "an unsupported kind of TIFF"),
        (encoded(Image.fromarray(RGB[..., 0].astype(np.float32)), "TIFF").getvalue(), "floating-point"),
    ],
    ids=["empty", "text", "truncated jpeg", "truncated png", "animated", "enormous", "swollen profile", "swollen text",
         "truncated 16-bit png", "truncated tiff", "cmyk tiff", "float tiff", "float"],
)  # fmt: skip
def test_bad_files_are_one_line_that_names_them(data: bytes, message: str, tmp_path: Path, capfd) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read_picture(path, "photo.png")
    assert str(caught.value).startswith("photo.png: ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # no decoder has more to say


def test_damaged_exif_does_not_lose_the_picture() -> None:
    data = encoded(Image.fromarray(RGB), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff\xff").getvalue()
    np.testing.assert_array_equal(read_picture(io.BytesIO(data), "x").values, RGB)


def exif_of(artist: bytes, kind: int, count: int) -> bytes:
    """EXIF with an artist as so many values of one of TIFF's types."""
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 315, kind, count, 26, 0) + artist


@pytest.mark.parametrize("artist", ["Jürgen Müller".encode(), "José".encode("latin-1")])
@pytest.mark.parametrize("form", FORMATS)
def test_names_keep_their_accents(artist: bytes, form: str) -> None:
    given = encoded(Image.fromarray(RGB), "JPEG", exif=exif_of(artist + b"\0", 2, len(artist) + 1))
    picture = read_picture(given, "x")
    writer = FORMATS[form].open(stream := io.BytesIO(), Content((20, 30), 3, False, 8, None, picture.exif, 95))
    writer.write(picture.values)
    writer.close()
    assert artist + b"\0" in stream.getvalue()


def test_exif_that_cannot_be_written_does_not_lose_the_picture(caplog) -> None:
    given = encoded(Image.fromarray(RGB), "JPEG", exif=exif_of(struct.pack("<II", 1, 2), 5, 1))
    assert not read_picture(given, "x").exif
    assert caplog.messages == ["x: its EXIF data cannot be read and is left out"]


def test_the_exif_of_a_tiff_says_nothing_of_how_it_is_stored() -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    exif.get_ifd(0x8825)[1] = "N"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    stored = encoded(Image.fromarray(RGB), "TIFF", exif=exif.tobytes(), icc_profile=icc)
    picture = read_picture(stored, "x")
    assert picture.icc == icc
    assert set(picture.exif) == {0x010F, 0x8769, 0x8825}
    written = Image.Exif()
    written.load(picture.exif.tobytes())
    assert (written[0x010F], written.get_ifd(0x8769)[0x9003]) == ("Maker", "2020:01:02 03:04:05")
    assert written.get_ifd(0x8825)[1] == "N"


@pytest.mark.parametrize(
    ("form", "channels", "alpha", "bits"),
    [
        (form, channels, alpha, bits)
        for form, row in FORMATS.items()
        for channels in (1, 3)
        for alpha in (False, True)[: 1 + row.alpha]
        for bits in row.depths
    ],
)
def test_what_is_written_can_be_read(form: str, channels: int, alpha: bool, bits: int, tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    rows, columns = np.mgrid[:20, :30]
    ramps = np.dstack([8 * rows, 5 * columns, 4 * (rows + columns), 250 - 4 * rows])  # smooth, as JPEG wants it
    pixels = ramps[..., [0, 3] if channels == 1 else slice(4)][..., : channels + alpha]
    pixels = (pixels * 257 + rows[..., None]).astype(np.uint16) if bits == 16 else pixels.astype(np.uint8)
    writer = FORMATS[form].open(stream := io.BytesIO(), Content((20, 30), channels, alpha, bits, icc, exif, 95))
    writer.write(pixels)
    writer.close()
    path = tmp_path / "a"
    path.write_bytes(stream.getvalue())
    assert read_size(path) == (30, 20)
    picture = read_picture(path, "a")
    assert (picture.kind, picture.bits) == (FORMATS[form].kinds[0], bits)
    assert (picture.icc, picture.exif[0x010F]) == (icc, "Maker")
    assert picture.channels == (3 if form == "webp" or (form == "avif" and alpha) else channels)
    off = np.abs(picture.values.astype(int) - pixels[..., :channels]).max()
    assert off <= (0 if form in ("png", "tiff") else 12)
    if alpha:
        np.testing.assert_allclose(picture.alpha.astype(int), pixels[..., -1], atol=2 if form == "avif" else 0)
    assert (picture.alpha is not None) == alpha


@pytest.mark.parametrize("form", FORMATS)
def test_a_profile_of_grey_is_only_on_grey(form: str) -> None:
    icc = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    icc[16:20] = b"GRAY"  # what formats go by
    writer = FORMATS[form].open(stream := io.BytesIO(), Content((20, 30), 1, False, 8, bytes(icc), Image.Exif(), 95))
    writer.write(RGB[..., :1])
    writer.close()
    written = Image.open(stream)
    assert ("icc_profile" in written.info) == (written.mode == "L")


@pytest.mark.parametrize("form", ["png", "jpeg", "tiff"])
def test_the_resolution_comes_back(form: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture.{form}"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn: across and down change places
    Image.new("RGB", (8, 6)).save(path, dpi=(300, 150), exif=exif)
    picture = read_picture(path, "picture")
    assert picture.dpi == pytest.approx((150, 300), abs=0.02)
    content = Content(picture.size, 3, False, 8, None, picture.exif, 95, picture.dpi)
    stream = io.BytesIO()
    writer = FORMATS[form].open(stream, content)
    writer.write(picture.values)
    writer.close()
    assert Image.open(stream).info["dpi"] == pytest.approx((150, 300), abs=0.02)
    Image.new("RGB", (8, 6)).save(path)
    assert read_picture(path, "picture").dpi in (None, (1.0, 1.0))


def test_avif_stays_avif(tmp_path: Path) -> None:
    if "avif" not in FORMATS:
        pytest.skip("this Pillow does not write AVIF")
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 4), np.uint8)
    writer = FORMATS["avif"].open(stream, Content((16, 24), 3, True, 8, None, Image.Exif(), 95))
    writer.write(pixels)
    writer.close()
    picture = read_picture(io.BytesIO(stream.getvalue()), "picture")
    assert by_kind(picture.kind) == "avif"
    assert picture.size == (16, 24)
    assert picture.alpha is not None


def test_heic_is_read_with_its_extra_and_named_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "phone.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(12))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        for read in (read_size, lambda path: read_picture(path, str(path))):
            with pytest.raises(UserError, match=r"phone.heic: HEIC .* pip install 'tsdsr\[heif\]'"):
                read(path)
    pytest.importorskip("pillow_heif").from_pillow(Image.new("RGB", (40, 24), "red")).save(path)
    picture = read_picture(path, "phone.heic")
    assert picture.size == (24, 40)
    assert by_kind(picture.kind) == "png"
