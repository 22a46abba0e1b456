import numpy as np
import pytest
import torch

from tests.tsdsr.inference.tiles.seams import seam_score
from tsdsr.inference import TSDSRPipeline
from tsdsr.inference.tiles.engine import Networks, TilePlan
from tsdsr.inference.tiles.memory import plan_tiles, smaller


def test_a_flat_offset_of_one_tile_shows() -> None:
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert seam_score(picture, [32], [32]) == pytest.approx(1, abs=0.15)
    picture[..., :32, :32] += 1
    assert seam_score(picture, [32], [32]) > 2


def borders(pipe: TSDSRPipeline, size: tuple[int, int], tile: int) -> tuple[list[int], list[int]]:
    """In pixels, of every tile."""
    networks = pipe._networks()
    tiles = networks.tiles(size, pipe._plan(networks, tile, None, 1))
    factor = networks.codec.factor
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
    networks = loaded._networks()
    tiles = networks.tiles((704, 704), loaded._plan(networks, "auto", None, 1).for_codec)
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


def plan(networks: Networks, **changes: object) -> TilePlan:
    options = {"tile": "auto", "overlap": None, "batch": 1, "limit": 32, "largest": 192} | changes
    return plan_tiles(networks, **options)  # type: ignore[arg-type]


def test_automatic_tiles_fit_the_memory_and_the_model(loaded: TSDSRPipeline, monkeypatch) -> None:
    networks = loaded._networks()
    monkeypatch.setattr("tsdsr.inference.tiles.memory.free_bytes", lambda device: 2**34)
    assert plan(networks) == TilePlan(32, 8, 1, 64)  # as large as the transformer was made for; the VAE takes more
    monkeypatch.setattr("tsdsr.inference.tiles.memory.free_bytes", lambda device: 2**24)
    little = plan(networks).tile
    assert 8 <= little < 32
    assert plan(networks, batch=4).tile <= little
    monkeypatch.setattr("tsdsr.inference.tiles.memory.free_bytes", lambda device: 0)
    assert plan(networks).tile == 8  # never less than four tokens


def test_tiles_that_were_asked_for(loaded: TSDSRPipeline) -> None:
    networks = loaded._networks()
    assert plan(networks, tile=200, overlap=48, batch=3) == TilePlan(24, 6, 3)
    assert plan(networks, tile=10_000).tile == 192  # positions end there
    assert plan(networks, tile=None).tile == 192


def test_smaller_tiles_end() -> None:
    steps = [TilePlan(32, 8, 4, 64)]
    while (following := smaller(steps[-1], patch=2)) is not None:
        steps.append(following)
    assert steps[1:] == [TilePlan(32, 8, 1, 64), TilePlan(32, 8, 1), TilePlan(16, 4, 1), TilePlan(8, 2, 1)]
