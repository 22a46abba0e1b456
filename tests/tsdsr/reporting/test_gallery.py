import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tsdsr.reporting.conftest import picture
from tsdsr.reporting import gallery, scores


def test_crops_show_where_the_images_differ_most() -> None:
    base = np.asarray(picture(0, 100)).copy()
    other = base.copy()
    other[60:70, 20:30] = 255 - other[60:70, 20:30]
    other[10:13, 80:83] = 255 - other[10:13, 80:83]
    (left, top, right, bottom), second = gallery.differing_boxes([Image.fromarray(base), Image.fromarray(other)])
    assert left <= 20
    assert right >= 30
    assert top <= 60
    assert bottom >= 70
    assert second[0] <= 80 < second[2]
    assert second[1] <= 10 < second[3]
    assert not (left < second[2] and second[0] < right and top < second[3] and second[1] < bottom)


def test_the_page_s_pictures_are_lossless() -> None:
    image = picture(3)
    kind, _, data = gallery.data_uri(image).partition(";base64,")
    assert kind == "data:image/webp"
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == np.asarray(image)).all()


def test_an_exhibit_holds_every_method_between_lq_and_hq(workspace: Path) -> None:
    (workspace / "data/restored/wo_tsm-seed0/barn.png").unlink()
    loaded = scores.load(workspace / "reports/scores")
    barn, coast = gallery.exhibits(
        workspace / "data/pairs/test", workspace / "data/restored", ["barn", "coast"], loaded
    )
    keys = ["lq", "bicubic", "round_trip", "full", "wo_dasm-seed0", "wo_tsm-seed0", "hq"]
    assert [version.key for version in coast.versions] == keys
    assert [version.key for version in barn.versions] == [key for key in keys if key != "wo_tsm-seed0"]
    assert coast.versions[3].scores == "PSNR 26.00 dB, SSIM 1.800"
    assert all(len(version.crops) == len(coast.boxes) == 2 for version in coast.versions)
