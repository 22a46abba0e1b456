from __future__ import annotations

from tsdsr.data.photographs import find_photographs
from tsdsr.data.reading import read_photograph


def test_every_bundled_photograph_is_installed_captioned_and_in_colour() -> None:
    refs = find_photographs("bundled")
    assert len(refs) == len({ref.id for ref in refs}) == len({ref.path for ref in refs}) == 11
    for ref in refs:
        pixels = read_photograph(ref.path, max_megapixels=10).astype(int)
        assert min(pixels.shape[:2]) >= 300
        assert abs(pixels[..., 0] - pixels[..., 2]).mean() > 2
        assert ref.caption
        assert len(ref.caption.split()) >= 8


def test_both_splits_have_several() -> None:
    splits = [ref.split for ref in find_photographs("bundled")]
    assert splits.count("test") == 3
    assert splits.count("train") == 8
