"""The stage and its folder form, with restorers put in and tracking recorded instead of sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import evaluate, restore
from pipeline.stages import restorers, scoring_workers
from pipeline.stages.cost import Cost
from pipeline.tracking import runs as tracking
from tsdsr import files, metrics
from tsdsr.config import Params
from tsdsr.errors import UserError
from tsdsr.reporting import published, scores, tables


class Recorder:
    """Stands in for a tracking run."""

    run_id = "run-1"

    def __init__(self, name: str) -> None:
        self.name, self.logged, self.artifacts = name, {}, []

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self.logged.update(values)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self.artifacts.append(Path(path).name)

    def model(
        self, student: Path, config: dict[str, str], metrics: dict[str, float], data: str, manifest: Path
    ) -> None:
        self.models = [(student.name, config["color"], dict(metrics), data)]

    def dataset(self, name: str, manifest: Path, context: str) -> None:
        self.artifacts.append(f"{name} for {context}, {manifest}")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorder]:
    runs: dict[str, Recorder] = {}

    @contextmanager
    def child(params: Params, name: str) -> Iterator[Recorder]:
        yield runs.setdefault(name, Recorder(name))

    @contextmanager
    def parent(params: Params) -> Iterator[None]:
        yield

    monkeypatch.setattr(tracking, "child", child)
    monkeypatch.setattr(tracking, "parent", parent)
    return runs


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with two test pairs, a student's files, and no weights in any cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging-face"))
    random = np.random.default_rng(0)
    for index in range(2):
        lq = random.integers(0, 255, (48, 48, 3), dtype=np.uint8)
        save(tmp_path / f"data/pairs/test/lq/p{index}.png", lq)
        save(tmp_path / f"data/pairs/test/hq/p{index}.png", restorers.bicubic(4)(lq))
    files.write_text(tmp_path / "data/students/full/vae.safetensors", "weights")
    return tmp_path


@pytest.fixture
def small(params: Params) -> Params:
    return params.overlay({"evaluate": {"metrics": ["psnr", "ssim", "niqe", "lpips"]}})


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def darker(lq: np.ndarray) -> np.ndarray:
    return (restorers.bicubic(4)(lq) * 0.9).astype(np.uint8)


def test_a_student_is_restored_scored_written_and_logged(
    workplace: Path, small: Params, recorded: dict[str, Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restorers, "student", lambda *_: darker)
    result = evaluate.evaluate_student(small, Path("data/students/full"), "full")
    with Image.open("data/restored/full/p0.png") as image:
        assert image.size == (192, 192)
    summary = files.read_json("reports/scores/full.json")
    columns = metrics.read_csv("reports/scores/full.csv")
    assert list(columns["psnr"]) == ["p0.png", "p1.png"]
    assert summary["metrics"]["psnr"]["mean"] == pytest.approx(np.mean(list(columns["psnr"].values())), abs=1e-5)
    assert "alexnet" in summary["metrics"]["lpips"]["reason"]
    assert summary["provenance"]["student"] == {
        "vae.safetensors": files.sha256_file("data/students/full/vae.safetensors")
    }
    assert set(result.means) == {"psnr", "ssim", "niqe"}
    assert recorded["full"].logged == {f"test/{name}": value for name, value in result.means.items()}
    dataset = "test pairs for evaluation, data/pairs/manifest.json"
    assert recorded["full"].artifacts == ["full.csv", "full.json", "full", dataset]
    assert recorded["full"].models == [("full", "adain", recorded["full"].logged, "test pairs")]


def test_equal_input_gives_equal_bytes(
    workplace: Path, small: Params, recorded: dict[str, Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restorers, "student", lambda *_: darker)
    written = []
    for _ in range(2):
        evaluate.evaluate_student(small, Path("data/students/full"), "full")
        assert files.read_json("reports/runs/full.json")["cost"]["time_s"] > 0  # no two runs take the same time
        written.append([Path("reports/scores/full").with_suffix(suffix).read_bytes() for suffix in (".json", ".csv")])
    assert written[0] == written[1]


def test_the_stage_scores_the_student_its_baselines_and_other_methods(
    workplace: Path, small: Params, recorded: dict[str, Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restorers, "student", lambda *_: restorers.bicubic(4))
    monkeypatch.setitem(restorers.BASELINES, "round_trip", lambda *_: darker)
    external = [{"name": "Other Net", "dataset": "mine", "dir": "theirs"}]
    params = small.overlay({"evaluate": {"external": external, "references": {"mine": "data/pairs/test/hq"}}})
    save(workplace / "theirs/p0.png", darker(restorers.read("data/pairs/test/lq/p0.png")))
    save(workplace / "theirs/p1.png", darker(restorers.read("data/pairs/test/lq/p1.png")))
    assert evaluate.evaluate(params)
    flat = files.read_json("reports/metrics/evaluate.json")
    assert set(flat) == {"full", "bicubic", "round_trip", "Other_Net-mine"}
    assert flat["full"] == flat["bicubic"]  # this student is the bicubic baseline
    assert flat["full"]["psnr"] == pytest.approx(80)  # and so were the references: pyiqa's value for equal images
    assert flat["round_trip"]["psnr"] == flat["Other_Net-mine"]["psnr"] < 40
    assert files.read_json("reports/scores/Other_Net-mine.json")["method"] == "Other Net"

    assert evaluate.evaluate(small)
    assert not Path("reports/scores/Other_Net-mine.json").exists()
    assert not Path("reports/scores/Other_Net-mine.csv").exists()


def test_an_external_folder_that_is_not_there_stops_the_stage_before_any_work(
    workplace: Path, small: Params, recorded: dict[str, Recorder]
) -> None:
    params = small.overlay({"evaluate": {"external": [{"name": "A", "dataset": "test", "dir": "nowhere"}]}})
    with pytest.raises(UserError, match=r"evaluate\.external\.0\.dir: nowhere"):
        evaluate.evaluate(params)
    assert not Path("data/restored").exists()


def test_a_folder_of_weights_that_is_not_there_stops_the_stage_before_any_work(workplace: Path, small: Params) -> None:
    with pytest.raises(UserError, match=r"evaluate\.weights_dir: nowhere is not a folder"):
        evaluate.evaluate(small.overlay({"evaluate": {"weights_dir": "nowhere"}}))
    assert not Path("data/restored").exists()


def test_faults_of_external_outputs_are_told_before_any_work(
    workplace: Path, small: Params, recorded: dict[str, Recorder], caplog: pytest.LogCaptureFixture
) -> None:
    save(workplace / "theirs/p0.png", np.zeros((64, 64, 3), dtype=np.uint8))
    params = small.overlay({"evaluate": {"external": [{"name": "A", "dataset": "test", "dir": "theirs"}]}})
    with pytest.raises(UserError, match="theirs: no image has a reference of the same name"):
        evaluate.evaluate(params)
    assert "A-test: p0.png: is 64x64, its reference 192x192" in caplog.text
    assert "A-test: p1.png: a reference without a restored image" in caplog.text
    assert not Path("data/restored").exists()


def test_a_metric_that_nobody_knows_stops_the_stage_before_any_work(workplace: Path, small: Params) -> None:
    with pytest.raises(UserError, match="unknown metric psnrr"):
        evaluate.evaluate(small.overlay({"evaluate": {"metrics": ["psnrr"]}}))
    assert not Path("data/restored").exists()


@pytest.mark.parametrize("name", ["full", "wo_tsm", "wo tsm-seed0", "bicubic", "round_trip"])
def test_outputs_that_would_pass_for_ours_are_refused(workplace: Path, small: Params, name: str) -> None:
    save(workplace / "theirs/p0.png", darker(restorers.read("data/pairs/test/lq/p0.png")))
    params = small.overlay({"evaluate": {"external": [{"name": name, "dataset": "test", "dir": "theirs"}]}})
    with pytest.raises(UserError, match=rf"evaluate\.external\.0\.name: {name} is the name of a method of our own"):
        evaluate.evaluate(params)
    assert not Path("data/restored").exists()


@pytest.mark.parametrize(("method", "dataset"), [("A_B", "c-d"), ("A B-c", "d")])
def test_external_rows_of_one_file_are_refused(small: Params, method: str, dataset: str) -> None:
    rows = [{"name": "A B", "dataset": "c-d", "dir": "x"}, {"name": method, "dataset": dataset, "dir": "y"}]
    with pytest.raises(UserError, match="files of scores have one name"):
        small.overlay({"evaluate": {"external": rows, "references": {"c-d": "hq", "d": "hq"}}})


def test_references_of_our_own_test_set_are_refused_rather_than_ignored(small: Params) -> None:
    with pytest.raises(UserError, match="references has test"):
        small.overlay({"evaluate": {"references": {"test": "hq"}}})


def test_an_external_data_set_without_references_is_refused(small: Params) -> None:
    with pytest.raises(UserError, match="drealsr"):
        small.overlay({"evaluate": {"external": [{"name": "A", "dataset": "drealsr", "dir": "x"}]}})


def test_the_folder_form_writes_every_column_and_returns(workplace: Path) -> None:
    evaluate.main(["--restored", "data/pairs/test/hq", "--reference", "data/pairs/test/hq", "--out", "out/a.csv"])
    header, *rows = Path("out/a.csv").read_text().splitlines()
    assert header == "name,psnr,ssim,lpips,dists,niqe,musiq,maniqa,clipiqa"
    assert [row.split(",")[0] for row in rows] == ["p0.png", "p1.png"]
    reasons = {name: row["reason"] for name, row in files.read_json("out/a.json")["metrics"].items()}
    assert set(reasons) == {row.name for row in metrics.select(None)}
    assert {name for name, reason in reasons.items() if reason is None} == {"psnr", "ssim", "niqe"}


def test_the_folder_form_exits_1_on_partial_results_and_keeps_them(workplace: Path) -> None:
    Path("data/pairs/test/hq/p1.png").unlink()
    with pytest.raises(SystemExit) as stop:
        evaluate.main(["--restored", "data/pairs/test/lq", "--reference", "data/pairs/test/lq", "--out", "small.csv"])
    assert stop.value.code == 1  # 48 px is too small for NIQE
    summary = files.read_json("small.json")
    assert summary["partial"]
    assert {problem["metric"] for problem in summary["problems"]} == {"niqe"}
    assert summary["metrics"]["psnr"]["mean"] == pytest.approx(80)


def test_the_round_trip_pads_what_the_autoencoder_cannot_take(tmp_path: Path) -> None:
    from tests.tiny import tiny_vae

    tiny_vae().save_pretrained(tmp_path / "teacher/vae")
    lq = np.random.default_rng(1).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    restored = restorers.round_trip(tmp_path / "teacher", 3, use_shift=False)(lq)
    assert restored.shape == (21, 27, 3)
    assert restored.dtype == np.uint8


def test_a_network_is_counted_once_and_timed_on_the_other_pictures() -> None:
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)).eval()
    unused = torch.nn.Linear(9, 9)

    @torch.inference_mode()
    def restorer(lq: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(lq).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0).byte().numpy()

    cost = Cost(restorer)
    assert cost.figures() == {}
    for _ in range(3):
        assert cost.restore(np.zeros((500, 1000, 3), np.uint8)).shape == (500, 1000, 3)
    assert unused.weight.numel() == 81
    figures = cost.figures()
    assert figures.pop("time_s") > 0
    assert len(cost.seconds) == 2
    assert figures == {"macs_g": 0.216, "params_m": 0.000443, "picture": "1000x500"}
    assert (cost.operations, cost.parameters) == (2 * 500_000 * 2 * 8 * 3 * 9, 2 * 8 * 3 * 9 + 8 + 3)


METHODS = (
    *("StableSR", "DiffBIR", "SeeSR", "SUPIR", "PASD", "ResShift", "AddSR", "SinSR", "OSEDiff"),
    *("BSRGAN", "Real-ESRGAN", "LDL", "FeMASR"),
)


def test_a_folder_and_one_line_of_params_fill_the_row_of_every_method_of_the_paper(
    workplace: Path, small: Params, recorded: dict[str, Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restorers, "student", lambda *_: restorers.bicubic(4))
    for index, name in enumerate(METHODS):
        for pair in ("p0", "p1"):
            restored = restorers.bicubic(4)(restorers.read(f"data/pairs/test/lq/{pair}.png"))
            save(workplace / f"theirs/{name}/{pair}.png", (restored * (0.9 - 0.02 * index)).astype(np.uint8))
    lines = [{"name": name, "dataset": "drealsr", "dir": f"theirs/{name}"} for name in METHODS]
    ours = {"metrics": ["psnr"], "baselines": ["bicubic"], "references": {"drealsr": "data/pairs/test/hq"}}
    evaluate.evaluate(small.overlay({"evaluate": {**ours, "external": lines}}))
    runs = scores.load(Path("reports/scores"))
    rows = [
        row
        for printed in published.load("v1").values()
        if printed.name in ("table1", "table2", "table5")
        for row in tables.comparison(runs, printed, default=printed.name == "table1").rows
        if row.group == "DRealSR, measured here"
    ]
    found = {row.label: row.cells["psnr"] for row in rows}
    assert set(METHODS) <= found.keys()
    assert all("2 images; the published scores of DRealSR are over 93" in str(found[name].note) for name in METHODS)
    figures = [found[name].value for name in METHODS]
    assert figures == sorted(figures, reverse=True), "each row has its own folder's score"
    assert len(set(figures)) == len(METHODS)


def test_a_baseline_restores_a_folder_from_the_command_line(workplace: Path) -> None:
    params = str(Path(__file__).parents[2] / "params.yaml")
    restore.main(["--with", "bicubic", "--lq", "data/pairs/test/lq", "--out", "out", "--params", params])
    assert sorted(path.name for path in Path("out").iterdir()) == ["p0.png", "p1.png"]
    np.testing.assert_array_equal(restorers.read("out/p1.png"), restorers.read("data/pairs/test/hq/p1.png"))
    with pytest.raises(SystemExit):
        restore.main(["--with", "nearest", "--lq", "data/pairs/test/lq", "--out", "out"])


def test_real_esrgan_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"data\.scale is 2"):
        restorers.real_esrgan(2)
    monkeypatch.setattr(restorers.weights, "missing", lambda name: f"weights {name} are absent")
    with pytest.raises(UserError, match="real-esrgan are absent"):
        restorers.real_esrgan(4)


def test_an_unknown_baseline_ends_the_stage_before_any_work(workplace: Path, small: Params) -> None:
    with pytest.raises(UserError, match=r"evaluate\.baselines: unknown baseline nearest; known: bicubic"):
        evaluate.evaluate(small.overlay({"evaluate": {"baselines": ["nearest"]}}))


class Pool(scoring_workers.Spread):
    """Workers as plain objects: what is tested is when they start and what reaches them."""

    started = 0

    def _spread(self, stream: Iterator[metrics.ImageBatch]) -> Iterator[Any]:
        self.started += 1
        return self._local(stream)


@pytest.mark.parametrize(("images", "expected"), [(3, 0), (4, 1)])
def test_workers_start_only_above_the_threshold(images: int, expected: int) -> None:
    import torch

    pool = Pool(metrics.LocalExecutor(torch.device("cpu")), 2, above_images=3, folders=[])
    pixels = np.random.default_rng(0).integers(0, 255, (1, 16, 16, 3), dtype=np.uint8)
    batches = [metrics.ImageBatch((f"{index}.png",), ("psnr",), pixels, pixels) for index in range(images)]
    results = list(pool(iter(batches)))
    assert pool.started == expected
    assert sorted(result.names[0] for result in results) == [f"{index}.png" for index in range(images)]
