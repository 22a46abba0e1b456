import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tsdsr.reporting.conftest import picture, write_scores
from tsdsr import files
from tsdsr.errors import UserError
from tsdsr.reporting import build

ABLATED = ("wo_tsm-seed0", "wo_dasm-seed0")
TITLES, CAVEATS = {"lpips": "LPIPS loss, untrained features"}, ("Beware of <this>.",)
OPTIONS = build.Options(2, 24, "tiny", "v1", ABLATED, "full-seed0", 3.0, TITLES, CAVEATS)
BINS = """phase,sigma_low,sigma_high,samples,tsd_norm,vsd_norm,tsm_norm,cosine_z_hat,cosine_z
early,0.0,0.5,3,1,1,1,0.2,0.8
"""


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_whole_report_twice_with_equal_bytes(workspace: Path) -> None:
    written = build.build(workspace, OPTIONS)
    assert all(path.exists() for path in written)
    first = _bytes(workspace / "reports")
    build.build(workspace, OPTIONS)
    assert _bytes(workspace / "reports") == first


def test_the_page_stands_alone(workspace: Path) -> None:
    build.build(workspace, OPTIONS)
    text = (workspace / "reports/index.html").read_text()
    references = re.findall(r'(?:src|href)="([^"#][^"]{0,30})', text)
    assert references
    assert all(reference.startswith("data:") for reference in references)
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert "Beware of &lt;this&gt;." in text
    assert "LPIPS loss, untrained features" in text
    assert "vae_psnr_test" in text


@pytest.mark.parametrize("content", [b"{", b"<<<<<<< HEAD\n", b"[]", b"\xff"])
def test_a_damaged_file_of_a_stages_numbers_is_named(workspace: Path, content: bytes) -> None:
    (workspace / "reports/metrics/teacher.json").write_bytes(content)
    with pytest.raises(UserError, match=r"teacher\.json: no JSON object of numbers; run"):
        build.build(workspace, OPTIONS)


def test_every_table_comes_in_every_format(workspace: Path) -> None:
    build.build(workspace, OPTIONS)
    names = {path.name for path in (workspace / "reports/tables").iterdir()}
    stems = ("measured", *(f"table{number}" for number in range(1, 6)))
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("md", "tex", "csv")}
    assert "28.61" in (workspace / "reports/tables/table5.md").read_text()  # Real-ESRGAN in the first version
    build.build(workspace, replace(OPTIONS, paper_version="v4"))
    assert "28.61" not in "".join(path.read_text() for path in (workspace / "reports/tables").iterdir())
    assert "SD2-base" in (workspace / "reports/tables/base_models.md").read_text()


def test_a_rows_source_is_found_by_its_id(workspace: Path) -> None:
    build.build(workspace, OPTIONS)
    origins = files.read_json(workspace / "reports/provenance.json")
    text = (workspace / "reports/tables/measured.md").read_text()
    full = next(line for line in text.splitlines() if line.startswith("| Full"))
    origin = origins[re.search(r"\[([0-9a-f]{7})\]\(\.\./provenance\.json\)", full)[1]]
    assert (origin["MLflow run"], origin["commit"], origin["params sha256"]) == ("run-full", "c0ffee", "9a")
    assert origin["hardware"]
    assert origin["figures"]["psnr"]["protocol"].startswith("backend pyiqa psnr")
    assert "c0ffee" not in text
    for line in (workspace / "reports/tables/table1.csv").read_text().splitlines()[1:]:
        assert line.rpartition(",")[2] in origins


def test_curves_of_the_teacher_stand_apart(workspace: Path) -> None:
    (workspace / "reports/curves/teacher.csv").write_text("step,vae\n1,0.5\n2,0.4\n")
    build.build(workspace, OPTIONS)
    names = {path.name for path in (workspace / "reports/plots").iterdir()}
    stems = ("loss_curves", "teacher_curves", "scores_by_image", "teacher_flow", "quality_cost")
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "svg")}


def test_the_teachers_samples_stand_under_its_curves(workspace: Path) -> None:
    numbers = workspace / "reports/metrics/teacher.json"
    (workspace / "data/teacher").mkdir()
    picture(0).save(workspace / "data/teacher/samples.png")
    build.build(workspace, OPTIONS)
    assert "Samples of the teacher" not in (workspace / "reports/index.html").read_text()
    files.write_json(numbers, {**files.read_json(numbers), "samples": ["a cup", "a hill"]})
    build.build(workspace, OPTIONS)
    assert "The captions by column: 1 a cup; 2 a hill." in (workspace / "reports/index.html").read_text()


def test_other_methods_on_other_images_are_no_fact_beside_ours(workspace: Path) -> None:
    ours = files.read_json(workspace / "reports/scores/full.json")
    theirs = {**ours, "method": "Other", "provenance": {**ours["provenance"], "outputs": "theirs"}}
    files.write_json(workspace / "reports/scores/Other-drealsr.json", theirs)
    shutil.copy(workspace / "reports/scores/full.csv", workspace / "reports/scores/Other-drealsr.csv")
    build.build(workspace, OPTIONS)
    text = (workspace / "reports/index.html").read_text()
    assert "PSNR over bicubic" in text
    assert text.count("over bicubic ↑") == 2  # PSNR and SSIM of ours alone
    assert ">Other</th>" in text  # in the tables


def test_full_of_the_ablation_stands_for_that_of_the_stage_distill(workspace: Path) -> None:
    """They may go on from different starts, so their mean would be neither's."""
    scores, named = workspace / "reports/scores", ("full-seed0", "full-seed1", *ABLATED)
    for seed, psnr in enumerate((20.0, 21.0)):
        write_scores(scores, f"full-seed{seed}", {"psnr": psnr, "ssim": 0.5})

    def full(own_full: str) -> str:
        build.build(workspace, replace(OPTIONS, ablated=named, own_full=own_full))
        rows = (workspace / "reports/tables/measured.csv").read_text().splitlines()
        return next(row for row in rows if row.startswith("Full"))

    # image k scores k more than the mean given, so these are 21, 22 and, for the stage's own, 26
    assert "21.50" in full("full-seed0")
    assert "23.00" in full("full-seed7")


def test_a_sweep_has_its_place(workspace: Path) -> None:
    build.build(workspace, OPTIONS)
    assert 'id="sweep"' not in (workspace / "reports/index.html").read_text()
    folder = workspace / "reports/sweep"
    folder.mkdir()
    picture(0).save(folder / "parallel.png")
    (folder / "trials.csv").write_text("trial,key,tsd.lambda,end,psnr,reason\n0,ab,0.5,finished,24.1,\n1,cd,0.7,,,x\n")
    build.build(workspace, OPTIONS)
    text = (workspace / "reports/index.html").read_text()
    section = text[text.index('<section id="sweep"') : text.index('<section id="papers"')]
    assert "parallel coordinates" in section
    assert ">trial 1<" in section
    assert 'data-value="24.1"' in section
    assert 'data-text="finished"' in section


def test_what_the_training_noted_has_its_place(workspace: Path) -> None:
    build.build(workspace, OPTIONS)
    text = (workspace / "reports/index.html").read_text()
    assert 'id="directions"' not in text
    assert 'id="validation"' not in text
    for folder, row in (
        (
            "diagnostics",
            "phase,sigma_low,sigma_high,samples,vsd_norm,tsm_norm,cosine_z_hat,cosine_z\nlate,0,1,9,1,1,0.3,0.8\n",
        ),
        ("validation", "step,psnr,niqe,pattern_db\n50,21.5,,8.2\n100,22,,0.4\n"),
    ):
        (workspace / "reports" / folder).mkdir()
        (workspace / "reports" / folder / "full.csv").write_text(row)
    picture(0).save(workspace / "reports/validation/full.png")
    build.build(workspace, OPTIONS)
    text = (workspace / "reports/index.html").read_text()
    directions = text[text.index('<section id="directions"') : text.index('<section id="validation"')]
    assert "Full, late" in directions
    assert 'data-value="0.88"' in directions
    assert "Held-out crops, Full" in text
    assert "exceeded its limit of 3 dB: Full, 1 of 2 validations, 8.2 dB at most" in text
    names = {path.stem for path in (workspace / "reports/plots").iterdir()}
    assert {"directions", "vsd_error", "validation_curves"} <= names


def test_without_curves_and_metrics_the_page_still_stands(workspace: Path) -> None:
    shutil.rmtree(workspace / "reports/curves")
    shutil.rmtree(workspace / "reports/metrics")
    build.build(workspace, OPTIONS)
    names = {path.name for path in (workspace / "reports/plots").iterdir()}
    assert names == {f"{stem}.{kind}" for stem in ("scores_by_image", "quality_cost") for kind in ("png", "svg")}


def test_what_is_missing_is_named(workspace: Path) -> None:
    (workspace / "data/restored/full/barn.png").unlink()
    with pytest.raises(UserError, match=r"full/barn\.png"):
        build.build(workspace, OPTIONS)


def test_without_test_images_it_says_what_to_run(workspace: Path) -> None:
    with files.atomic_directory(workspace / "data/pairs/test/hq"):
        pass
    with pytest.raises(UserError, match="prepare-degradations"):
        build.build(workspace, OPTIONS)


def test_what_a_former_ablation_left_is_nowhere_in_the_report(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reports = workspace / "reports"
    files.write_json(reports / "metrics/wo_tsm-seed0.json", {"steps": 10})
    for folder, text in (("diagnostics", BINS), ("validation", "step,psnr\n5,20\n10,21\n")):
        (reports / folder).mkdir()
        (reports / folder / "wo_tsm-seed0.csv").write_text(text)
    picture(1).save(reports / "validation/wo_tsm-seed0.png")
    build.build(workspace, OPTIONS)
    assert "w/o TSM, seed 0" in (reports / "index.html").read_text()
    with caplog.at_level("INFO"):
        build.build(workspace, replace(OPTIONS, ablated=["wo_dasm-seed0"]))
    assert "skipped, since ablate.run and ablate.seeds do not name them: wo_tsm-seed0" in caplog.text
    text = (reports / "index.html").read_text()
    assert "w/o DASM, seed 0" in text
    assert "w/o TSM, seed 0" not in text
    assert "wo_tsm-seed0" not in text
