import numpy as np
import pytest
import torch

from tests.tsdsr.inference.tiles.seams import seam_score
from tsdsr.inference import TSDSRPipeline
from tsdsr.inference.tiles.plan import Geometry, TilePlan, plan_tiles, smaller


def test_a_flat_offset_of_one_tile_shows() -> None:
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert seam_score(picture, [32], [32]) == pytest.approx(1, abs=0.15)
    picture[..., :32, :32] += 1
    assert seam_score(picture, [32], [32]) > 2


def plan(geometry: Geometry, **changes: object) -> TilePlan:
    options = {"tile": "auto", "overlap": None, "batch": 1, "free": 2**34} | changes
    return plan_tiles(geometry, **options)  # type: ignore[arg-type]


def borders(pipe: TSDSRPipeline, size: tuple[int, int], tile: int) -> tuple[list[int], list[int]]:
    """In pixels, of every tile."""
    geometry = pipe.upscaler().networks.geometry
    tiles = geometry.tiles(size, plan(geometry, tile=tile))
    factor = geometry.factor
    rows, columns = ({span for tile in tiles for span in [tile[axis].scaled(factor)]} for axis in (0, 1))
    inside = [
        sorted({edge for span in spans for edge in (span.start, span.stop) if 0 < edge < side})
        for spans, side in ((rows, size[0]), (columns, size[1]))
    ]
    return inside[0], inside[1]


@pytest.mark.parametrize("color", ["wavelet", "adain"])
def test_tiles_leave_no_seams(loaded: TSDSRPipeline, photograph: np.ndarray, color: str) -> None:
    image = torch.from_numpy(photograph[100:260:2, 150:310:2].copy()).permute(2, 0, 1)[None].float() / 255
    rows, columns = borders(loaded, (320, 320), 128)
    assert len(rows) >= 3
    untiled = loaded(image, color=color, tile=None, output_type="pt").images
    tiled = loaded(image, color=color, tile=128, output_type="pt").images
    assert seam_score(tiled, rows, columns) == pytest.approx(seam_score(untiled, rows, columns), rel=0.05)


def test_automatic_tiles_leave_no_seams(loaded: TSDSRPipeline, photograph: np.ndarray) -> None:
    image = torch.from_numpy(photograph[100:276, 150:326].copy()).permute(2, 0, 1)[None].float() / 255
    geometry = loaded.upscaler().networks.geometry
    tiles = geometry.tiles((704, 704), plan(geometry).for_codec)
    edges = sorted({8 * edge for rows, _ in tiles for edge in (rows.start, rows.stop) if 0 < edge < 88})
    assert edges
    untiled, tiled = (loaded(image, tile=tile, output_type="pt").images for tile in (None, "auto"))
    assert seam_score(tiled, edges, edges) == pytest.approx(seam_score(untiled, edges, edges), rel=0.05)


def test_a_smooth_sky_shows_the_borders_no_more_than_the_tokens(loaded: TSDSRPipeline) -> None:
    """Of a picture without any detail, the transformer's tokens of 16 pixels are all there is to see."""
    rise = torch.linspace(0, 1, 80)
    sky = torch.stack([0.35 + 0.35 * rise, 0.55 + 0.25 * rise, 0.85 + 0.1 * rise])[None, :, :, None].expand(
        1, 3, 80, 80
    )
    rows, columns = borders(loaded, (320, 320), 128)
    others = [line for line in range(16, 320, 16) if line not in {*rows, *columns}]
    tiled = loaded(sky, tile=128, output_type="pt").images
    assert seam_score(tiled, rows, columns) == pytest.approx(seam_score(tiled, others, others), rel=0.1)


GEOMETRY = Geometry(factor=8, patch=2, channels=16, limit=32, largest=192, width=64)


def test_automatic_tiles_fit_the_memory_and_the_model() -> None:
    assert plan(GEOMETRY) == TilePlan(32, 8, 1, 64)  # as large as the transformer was made for; the VAE takes more
    little = plan(GEOMETRY, free=2**24).tile
    assert 8 <= little < 32
    assert plan(GEOMETRY, free=2**24, batch=4).tile <= little
    assert plan(GEOMETRY, free=0).tile == 8  # never less than four tokens


def test_tiles_that_were_asked_for() -> None:
    assert plan(GEOMETRY, tile=200, overlap=48, batch=3) == TilePlan(24, 6, 3)
    assert plan(GEOMETRY, tile=10_000).tile == 192  # positions end there
    assert plan(GEOMETRY, tile=None).tile == 192


def test_smaller_tiles_end() -> None:
    steps = [TilePlan(32, 8, 4, 64)]
    while (following := smaller(steps[-1], patch=2)) is not None:
        steps.append(following)
    assert steps[1:] == [TilePlan(32, 8, 1, 64), TilePlan(32, 8, 1), TilePlan(16, 4, 1), TilePlan(8, 2, 1)]
