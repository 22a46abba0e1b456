from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline import report
from tsdsr import files
from tsdsr.config import Params
from tsdsr.reporting.build import Options

ROOT = Path(__file__).parents[2]


class _Run:
    def __init__(self) -> None:
        self.artifacts: list[tuple[str, str | None]] = []
        self.values: dict[str, float] = {}

    def metrics(self, values: dict[str, float]) -> None:
        self.values.update(values)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self.artifacts.append((path.name, folder))


def test_what_is_written_is_logged_to_the_parent_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run, seen = _Run(), []
    (tmp_path / "tables").mkdir()
    (tmp_path / "index.html").touch()
    rows = {"psnr": {"mean": 23.5}, "lpips": {"mean": None}}
    for method in ("bicubic", "wo_tsm-seed9"):  # the second of a seed that the params do not name
        files.write_json(tmp_path / f"reports/scores/{method}.json", {"metrics": rows})

    @contextmanager
    def parent(params: Params) -> Iterator[_Run]:
        yield run

    def build(root: Path, options: Options) -> list[Path]:
        seen.append((root, options))
        return [tmp_path / "tables", tmp_path / "index.html"]

    monkeypatch.setattr(report.tracking, "parent", parent)
    monkeypatch.setattr(report.build, "build", build)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["report", "--params", str(ROOT / "params.yaml")])
    report.main()
    assert run.artifacts == [("tables", "report/tables"), ("index.html", "report")]
    assert run.values == {"bicubic/psnr": 23.5}
    assert seen[0][0] == tmp_path
    assert seen[0][1].ablated == {"wo_tsm-seed0", "wo_dasm-seed0"}


def test_untrained_lpips_features_are_named_as_such() -> None:
    params = Params.load(ROOT / "params.yaml")
    used = {"lpips": {"weights": "random"}, "phases": {"all": {"losses": {"lpips": 1.0}}}}
    random = report.options(params.overlay({"distill": used}))
    assert "untrained" in random.term_titles["lpips"]
    assert any("untrained" in caveat and "not the LPIPS metric" in caveat for caveat in random.caveats)
    published = report.options(params.overlay({"distill": {"lpips": {"weights": "published"}}}))
    assert published.term_titles["lpips"] == "LPIPS loss"
    assert not published.caveats
