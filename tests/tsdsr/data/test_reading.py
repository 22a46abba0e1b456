"""Every kind of file that a folder of photographs holds, made here and read. The table of it is docs/photographs.md."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageFile

from tests.tsdsr.data import profiles
from tsdsr.data.reading import BadPhotograph, read_photograph
from tsdsr.data.samples import to_eight_bit

ORIENTATION = 0x0112


@pytest.fixture
def colours() -> np.ndarray:
    """A smooth colour picture, (48, 64, 3), with nothing symmetric about it."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([x * 4, y * 5, 255 - x * 2 - y], axis=-1).clip(0, 255).astype(np.uint8)


def read(path: Path) -> np.ndarray:
    pixels = read_photograph(path, max_megapixels=1)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return pixels


def reason(path: Path, max_megapixels: float = 1) -> str:
    with pytest.raises(BadPhotograph) as caught:
        read_photograph(path, max_megapixels)
    assert str(path) in str(caught.value)
    return caught.value.reason


def difference(left: np.ndarray, right: np.ndarray) -> float:
    assert left.shape == right.shape
    return float(np.abs(left.astype(int) - right.astype(int)).mean())


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        (".png", {}, 0),
        (".bmp", {}, 0),
        (".tif", {}, 0),
        (".tif", {"compression": "tiff_lzw"}, 0),
        (".ppm", {}, 0),
        (".webp", {"lossless": True}, 0),
        (".webp", {"quality": 95}, 2),
        (".jpg", {"quality": 95}, 2),
        (".jpg", {"quality": 95, "progressive": True}, 2),
        (".jp2", {}, 0),
        (".avif", {"quality": 95}, 2),
    ],
    ids=lambda value: str(value),
)
def test_colour_formats(tmp_path: Path, colours: np.ndarray, suffix: str, options: dict, tolerance: float) -> None:
    path = tmp_path / f"photograph{suffix}"
    Image.fromarray(colours).save(path, **options)
    assert difference(read(path), colours) <= tolerance


def test_content_decides_not_the_suffix(tmp_path: Path, colours: np.ndarray) -> None:
    path = tmp_path / "really-a-png.jpg"
    Image.fromarray(colours).save(path, format="PNG")
    assert np.array_equal(read(path), colours)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {}),
        (".jpg", {"quality": 98}),
        (".webp", {"lossless": True}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(
    tmp_path: Path, colours: np.ndarray, orientation: int, suffix: str, options: dict
) -> None:
    stored = {  # what a camera writes, so that the viewer's rotation shows the scene upright
        1: colours,
        2: colours[:, ::-1],
        3: colours[::-1, ::-1],
        4: colours[::-1],
        5: colours.transpose(1, 0, 2),
        6: np.rot90(colours, 1),
        7: np.rot90(colours, 2).transpose(1, 0, 2),
        8: np.rot90(colours, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"photograph{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
    assert difference(read(path), colours) <= (1 if suffix == ".jpg" else 0)


def test_grey_becomes_three_equal_channels(tmp_path: Path, colours: np.ndarray) -> None:
    grey = colours[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read(tmp_path / "grey.png"), np.stack([grey] * 3, axis=-1))


def test_black_and_white(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours[:, :, 0] > 100).save(tmp_path / "bits.png")
    assert np.array_equal(read(tmp_path / "bits.png")[:, :, 0], np.where(colours[:, :, 0] > 100, 255, 0))


def test_palette(tmp_path: Path, colours: np.ndarray) -> None:
    palette = Image.fromarray(colours).quantize(256)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))


def test_transparent_pixels_are_laid_over_white(tmp_path: Path, colours: np.ndarray) -> None:
    alpha = np.full(colours.shape[:2], 255, np.uint8)
    alpha[:, :10], alpha[:, 10:20] = 0, 128
    Image.fromarray(np.dstack([colours, alpha])).save(tmp_path / "alpha.png")
    pixels = read(tmp_path / "alpha.png")
    assert (pixels[:, :10] == 255).all()
    assert np.array_equal(pixels[:, 20:], colours[:, 20:])
    assert difference(pixels[:, 10:20], (colours[:, 10:20] * 0.5 + 127.5).astype(np.uint8)) <= 1


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((3, 3), 1)
    image.save(tmp_path / "hole.png", transparency=0)
    pixels = read(tmp_path / "hole.png")
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[3, 3].tolist() == [200, 100, 50]


def test_cmyk_jpeg(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    assert difference(read(tmp_path / "cmyk.jpg"), colours) <= 3


def test_sixteen_bit_png(tmp_path: Path, colours: np.ndarray) -> None:
    levels = colours[:, :, 0].astype(np.uint16) * 257
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert np.array_equal(read(tmp_path / "deep.png")[:, :, 0], colours[:, :, 0])


def test_sixteen_bit_colour_png(tmp_path: Path, colours: np.ndarray) -> None:
    write_deep_png(tmp_path / "deep.png", colours.astype(np.uint16) * 257)
    assert np.array_equal(read(tmp_path / "deep.png"), colours)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("kind", ["uint16", "float32", "float16", "uint32"])
def test_deep_tiff(tmp_path: Path, colours: np.ndarray, kind: str, planar: str) -> None:
    samples = colours / 255 if kind.startswith("float") else colours.astype(np.int64) * 257
    samples = samples.astype(kind)
    if planar == "separate":
        samples = np.moveaxis(samples, -1, 0)
    tifffile.imwrite(tmp_path / "deep.tif", np.ascontiguousarray(samples), photometric="rgb", planarconfig=planar)
    assert difference(read(tmp_path / "deep.tif"), colours) <= (1 if kind == "float16" else 0)


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_deep_grey_tiff(tmp_path: Path, colours: np.ndarray, kind: str) -> None:
    grey = colours[:, :, 0]
    tifffile.imwrite(tmp_path / "deep.tif", (grey / 255).astype(kind) if kind == "float32" else grey.astype(kind) * 257)
    assert np.array_equal(read(tmp_path / "deep.tif")[:, :, 1], grey)


def test_deep_tiff_keeps_its_orientation(tmp_path: Path, colours: np.ndarray) -> None:
    turned = np.ascontiguousarray(np.rot90(colours, 1)) / np.float32(255)
    tags = [(ORIENTATION, "H", 1, 6, True)]
    tifffile.imwrite(tmp_path / "turned.tif", turned.astype(np.float32), photometric="rgb", extratags=tags)
    assert np.array_equal(read(tmp_path / "turned.tif"), colours)


def test_float_samples_out_of_range_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "radiance.tif", np.full((8, 8, 3), 7.5, np.float32), photometric="rgb")
    assert "float samples from 7.5 to 7.5; they must lie in 0..1" in reason(tmp_path / "radiance.tif")


def test_float_samples_that_are_no_number_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "nan.tif", np.full((8, 8), np.nan, np.float32))
    assert "nan" in reason(tmp_path / "nan.tif")


def test_colour_profile_is_converted_to_srgb(tmp_path: Path, colours: np.ndarray) -> None:
    """A profile with red and blue exchanged: its file shows the same scene with exchanged channels."""
    Image.fromarray(colours[:, :, ::-1]).save(tmp_path / "swapped.png", icc_profile=profiles.swapped_srgb())
    assert difference(read(tmp_path / "swapped.png"), colours) <= 1


def test_grey_profile(tmp_path: Path) -> None:
    light = np.array([[0.0, 0.1, 0.5, 1.0]])
    Image.fromarray(np.rint(light * 255).astype(np.uint8)).save(tmp_path / "g.png", icc_profile=profiles.linear_grey())
    pixels = read(tmp_path / "g.png")
    expected = np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255  # sRGB's curve
    assert np.abs(pixels - expected[..., None]).max() <= 2


def test_cmyk_profile(tmp_path: Path) -> None:
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:8, :, 0] = 255  # cyan, which this press does not print
    inks[8:, :, 3] = 255
    Image.fromarray(inks, mode="CMYK").save(tmp_path / "c.tif", icc_profile=profiles.black_ink_only())
    pixels = read(tmp_path / "c.tif")
    assert pixels[:8].min() >= 253
    assert pixels[8:].max() <= 2


def test_srgb_profile_changes_nothing(tmp_path: Path, colours: np.ndarray) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(colours).save(tmp_path / "srgb.png", icc_profile=profile)
    assert np.array_equal(read(tmp_path / "srgb.png"), colours)


@pytest.mark.parametrize("profile", [b"not a profile", profiles.lab()], ids=["broken", "of another colour space"])
def test_useless_profile_is_named_and_passed_over(
    tmp_path: Path, colours: np.ndarray, profile: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(colours).save(tmp_path / "odd.png", icc_profile=profile)
    assert np.array_equal(read(tmp_path / "odd.png"), colours)
    assert "odd.png: its colour profile cannot be used" in caplog.text


def test_lab_tiff(tmp_path: Path, colours: np.ndarray) -> None:
    lab = ImageCms.profileToProfile(
        Image.fromarray(colours), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    lab.save(tmp_path / "lab.tif")
    assert difference(read(tmp_path / "lab.tif"), colours) <= 3


@pytest.mark.parametrize("suffix", [".gif", ".tif", ".webp", ".png", ".mpo"])
def test_first_frame_of_several(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (16, 16), (250, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 250))
    lossless = {"lossless": True} if suffix == ".webp" else {}
    first.save(tmp_path / f"frames{suffix}", save_all=True, append_images=[second], **lossless)
    assert np.abs(read(tmp_path / f"frames{suffix}").astype(int) - [250, 0, 0]).max() <= 5


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp"])
def test_truncated(tmp_path: Path, colours: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(colours).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert reason(path).startswith(("cannot be decoded: ", "not an image"))


def test_truncated_is_refused_though_another_library_lets_it_through(
    tmp_path: Path, colours: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    test_truncated(tmp_path, colours, ".jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # given back


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    assert reason(tmp_path / "empty.jpg") == "empty file (0 bytes)"


def test_no_picture(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    assert reason(tmp_path / "page.jpg").startswith("not an image in a supported format")


def test_format_that_starts_another_program_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert reason(tmp_path / "page.jpg").startswith("not an image")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_decompression_bomb_is_refused_by_its_header(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bomb{suffix}"
    if suffix == ".png":  # 60,000 x 50,000 px declared, no pixels
        header = b"IHDR" + (60_000).to_bytes(4, "big") + (50_000).to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
        chunk = (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk + (0).to_bytes(4, "big") + b"IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
        )
    else:
        tifffile.imwrite(path, np.zeros((8, 8, 3), np.float32), photometric="rgb")
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            tiff.pages.first.tags["ImageWidth"].overwrite(60_000)
            tiff.pages.first.tags["ImageLength"].overwrite(50_000)
    assert reason(path, 200) == "60000x50000 px = 3000 megapixels; prepare.max_megapixels is 200"


def test_limit_is_ours_alone(tmp_path: Path, colours: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own limit may be below the params' one, and is given back."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.fromarray(colours).save(tmp_path / "photograph.png")
    assert np.array_equal(read(tmp_path / "photograph.png"), colours)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_missing_and_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason(tmp_path / "gone.jpg") == "cannot be read: No such file or directory"

    def forbid(self: Path) -> bytes:  # the superuser may read everything, so a mode of 000 would test nothing
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", forbid)
    assert reason(tmp_path / "locked.jpg") == "cannot be read: Permission denied"


def test_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert "symbolic links" in reason(tmp_path / "loop.jpg")


def test_eight_bit_rounds_to_nearest() -> None:
    samples = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(samples / 257).astype(np.uint8)
    assert np.array_equal(to_eight_bit(samples), expected)


def test_wide_integers_have_no_white() -> None:
    with pytest.raises(ValueError, match="integers of 8 or 16 bits"):
        to_eight_bit(np.full((4, 4), 70000, np.int32))


def write_deep_png(path: Path, samples: np.ndarray) -> None:
    """A 16-bit RGB PNG by hand: Pillow writes none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    out = io.BytesIO()
    out.write(b"\x89PNG\r\n\x1a\n")
    out.write(chunk(b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])))
    out.write(chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    path.write_bytes(out.getvalue())
