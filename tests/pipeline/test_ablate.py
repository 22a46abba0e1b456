"""The ablation's two stages: which params a variant trains with, and where its results go."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from pipeline import ablate, ablate_distill
from pipeline.stages import lineage, variants
from pipeline.tracking import runs as tracking
from tsdsr.config import Params
from tsdsr.errors import UserError


def test_variants_differ_from_full_in_what_they_are_named_for(params: Params) -> None:
    changed = {name: variants.overlaid(params, name, 0).distill for name in params.ablate.variants}
    full = params.distill
    assert changed["full"] == full
    assert (changed["wo_tsm"].tsd.lam, changed["wo_tsm"].tsd.dasm) == (1.0, full.tsd.dasm)
    assert (changed["wo_dasm"].tsd.lam, changed["wo_dasm"].tsd.dasm.steps) == (full.tsd.lam, 0)
    assert (changed["vsd"].tsd.lam, changed["vsd"].tsd.dasm.steps) == (1.0, 0)
    assert (changed["tsm_alone"].tsd.lam, changed["tsm_alone"].tsd.dasm.steps) == (0.0, 0)
    assert changed["residual_velocity"].tsd.residual == "velocity"
    for phase in changed["latent_mse_alone"].phases.values():
        assert {name for name, weight in phase.losses.items() if weight} == {"latent_mse"}
    assert [changed[f"dasm_n{n}"].tsd.dasm.steps for n in (0, 2, 4, 8)] == [0, 2, 4, 8]
    assert [changed[f"dasm_s{s}"].tsd.dasm.step_size for s in (25, 50, 100)] == [25, 50, 100]
    for name, distill in changed.items():
        untouched = {"tsd", "phases", "shift_positions"}  # trajectories, computed once, are of one place
        assert distill.model_dump(exclude=untouched) == full.model_dump(exclude=untouched), name


def test_a_seed_changes_nothing_but_the_seed(params: Params) -> None:
    first, second = (variants.overlaid(params, "vsd", seed) for seed in (0, 1))
    assert (first.seed, second.seed) == (0, 1)
    assert first.distill == second.distill


def test_all_variants_go_on_from_one_student_that_is_trained_once(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    alone = {"steps": 9, "phases": {"all": {"losses": {"tsd": 0.0, "latent_mse": 1.0}}}}
    params = params.overlay({"ablate": {"start": alone}})
    directory, changed = variants.start(params)
    assert (changed.distill.steps, changed.distill.start) == (9, None)
    found = [variants.overlaid(params, name, seed).distill for name, seed in (("full", 0), ("vsd", 3))]
    assert {item.start for item in found} == {directory.as_posix()}
    assert {item.steps for item in found} == {params.distill.steps}
    assert variants.start(params.overlay({"ablate": {"start": {"steps": 10}}}))[0] != directory
    trained: list[str] = []

    def distill(changed: Params, *, out: Path, name: str, seed: int) -> None:
        trained.append(name)
        out.mkdir(parents=True)
        (out / "student.json").write_text("{}")

    monkeypatch.setattr(ablate_distill, "distill", distill)
    for _ in range(2):
        ablate_distill.train_start(params)
    assert trained == ["start"]


def test_an_unknown_variant_is_answered_with_the_known_ones(params: Params) -> None:
    with pytest.raises(UserError, match=r"nonsense.*wo_tsm"):
        variants.overlaid(params, "nonsense", 0)


def test_main_trains_and_scores_under_the_pipelines_run(
    params: Params, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[object, ...]] = []

    def distill(changed: Params, *, out: Path, name: str, seed: int) -> None:
        with tracking.child(changed, name) as run:
            run.metrics({"tsd": 1.0}, step=5)
        seen.append(("distill", changed.distill.tsd.lam, out.as_posix(), name, seed))

    def evaluate_student(changed: Params, student: Path, name: str) -> None:
        with tracking.child(changed, name) as run:
            run.metrics({"psnr": 20.0})
        seen.append(("evaluate", student.as_posix(), name))

    monkeypatch.setattr(lineage, "check", lambda params, *paths: None)
    monkeypatch.setattr(lineage, "making", lambda path, params, inputs: nullcontext())
    monkeypatch.setattr(ablate_distill, "distill", distill)
    monkeypatch.setattr(ablate, "evaluate_student", evaluate_student)
    monkeypatch.chdir(tmp_path)
    with tracking.child(params, "full"):
        pass
    for stage in (ablate_distill, ablate):
        stage.main(["--variant", "wo_tsm", "--seed", "3", "--params", str(root / "params.yaml")])
    assert seen == [
        ("distill", 1.0, "data/students/wo_tsm-seed3", "wo_tsm-seed3", 3),
        ("evaluate", "data/students/wo_tsm-seed3", "wo_tsm-seed3"),
    ]
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = {run.info.run_name: run for run in client.search_runs(["1"])}
    shown = runs["wo_tsm-seed3"]
    assert shown.data.tags["mlflow.parentRunId"] == runs["full"].data.tags["mlflow.parentRunId"]
    assert (shown.data.params["seed"], shown.data.params["distill.tsd.lambda"]) == ("3", "1.0")
    assert (shown.data.metrics, shown.info.status) == ({"tsd": 1.0, "psnr": 20.0}, "FINISHED")
