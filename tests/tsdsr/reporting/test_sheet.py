from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tsdsr.reporting.conftest import picture
from tsdsr.errors import UserError
from tsdsr.reporting import sheet


def test_pick_spreads_over_the_names() -> None:
    names = [f"{i:02}" for i in range(12)]
    assert sheet.pick(names[::-1], 3) == ["02", "06", "10"]
    assert sheet.pick(names, 20) == names


def test_the_input_s_pixels_stay_visible() -> None:
    hq = picture(0)
    lq = Image.fromarray(np.random.default_rng(1).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    made = np.asarray(sheet.compose(["LQ", "HQ"], [[sheet.Tile(lq, "name"), sheet.Tile(hq)]], reference=1))
    top, left = sheet.HEADER, sheet.GAP
    shown = made[top : top + 64, left : left + 64]
    assert (shown == np.asarray(lq).repeat(4, 0).repeat(4, 1)).all()
    right = left + 64 + sheet.GAP
    assert (made[top : top + 64, right : right + 64] == np.asarray(hq)).all()
    below = made[top + 64 : top + 64 + sheet.FOOTER, left : left + 64]
    assert (below != 255).any(), "the name is written under the picture"


def test_text_that_is_wider_than_its_picture_does_not_run_into_the_next() -> None:
    small, footer = picture(0).resize((32, 32)), "a-long-name-c000: PSNR 25.31 dB, SSIM 0.712"
    row = [sheet.Tile(small, footer), sheet.Tile(small)]
    made = np.asarray(sheet.compose(["LQ", "HQ"], [row], reference=1).convert("L"))
    inked = np.flatnonzero((made[-sheet.FOOTER - sheet.GAP :] < 255).any(0))
    second = np.flatnonzero((made[sheet.HEADER : sheet.HEADER + 32] < 255).any(0)).max() - 31
    assert inked.size
    assert inked.max() < second


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"a\.png.*cannot be read"):
        sheet.read(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"b\.png.*no such image"):
        sheet.read(tmp_path / "b.png")
