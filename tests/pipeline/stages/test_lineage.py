"""Inputs that do not fit the params: refused in one line, before anything is overwritten."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import ablate_distill, distill, evaluate, precompute
from pipeline.stages import lineage, variants
from pipeline.sweep import __main__ as sweep
from tests.teachers import write_pairs, write_random_teacher
from tsdsr import files
from tsdsr.config import Params
from tsdsr.errors import UserError

FULL = "data/students/full"


@pytest.fixture
def made(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A working directory with every artifact up to the student, each of these params and of the one before."""
    monkeypatch.chdir(tmp_path)
    with lineage.making(lineage.PAIRS, params):
        write_pairs(Path("data/pairs/train"), count=2, side=64)
        write_pairs(Path("data/pairs/test"), count=1, side=64, seed=1)
    with lineage.making(lineage.TEACHER, params):
        files.write_text("data/teacher/model_index.json", "{}")
    with lineage.making(lineage.LATENTS, params):
        files.write_text("data/latents/manifest.json", "{}")
    with lineage.making(FULL, params):
        files.write_text(f"{FULL}/transformer.safetensors", "trained")
    return params


def write(params: Params) -> list[str]:
    Path("params.yaml").write_text(yaml.safe_dump(params.to_dict()), encoding="utf-8")
    return ["stage", "--params", "params.yaml"]


CHANGED = [
    ({"prompts": {"default": "another"}}, lineage.TEACHER, "teacher", "prompts.default"),
    ({"precompute": {"dtype": "bfloat16"}}, lineage.LATENTS, "precompute", "precompute.dtype"),
    ({"teacher": {"flow": {"steps": 7}}}, lineage.TEACHER, "teacher", "teacher.flow.steps"),
    ({"data": {"crop_size": 64}}, lineage.PAIRS, "prepare-degradations", "data.crop_size"),
]


@pytest.mark.parametrize(("change", "path", "stage", "key"), CHANGED)
def test_distill_refuses_inputs_of_other_params_and_leaves_the_student(
    made: Params, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], path: str, stage: str, key: str
) -> None:
    monkeypatch.setattr("sys.argv", write(made.overlay(change)))
    monkeypatch.setattr(distill, "distill", lambda *_, **__: pytest.fail("it trains"))
    with pytest.raises(UserError, match=f"^{path} was made with {re.escape(key)}: .*; run `dvc repro {stage}`") as told:
        distill.main()
    assert "\n" not in str(told.value)
    assert Path(FULL, "transformer.safetensors").read_text() == "trained"


def test_inputs_that_were_made_anew_make_what_depends_on_them_stale(
    made: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", write(made))
    files.write_text("data/teacher/model_index.json", "{ }")
    with pytest.raises(UserError, match=r"^data/latents was made from another data/teacher .*`dvc repro precompute`"):
        distill.main()
    with lineage.making(lineage.LATENTS, made):
        pass
    lineage.check(made, lineage.PAIRS, lineage.TEACHER, lineage.LATENTS)
    with pytest.raises(UserError, match=r"^data/students/full was made from another data/teacher"):
        lineage.check(made, FULL)
    with lineage.making(lineage.PAIRS, made):
        shutil.copy("data/pairs/train/hq/picture-c001.png", "data/pairs/train/hq/picture-c000.png")
    with pytest.raises(UserError, match=r"^data/teacher was made from another data/pairs/train/hq"):
        precompute.main()


def test_corrected_captions_are_an_input_too(made: Params) -> None:
    files.write_text("captions/picture.txt", "a corrected caption")
    with lineage.making(lineage.TEACHER, made), lineage.making(lineage.LATENTS, made):
        pass
    files.write_text("captions/picture.txt", "and corrected again")
    with pytest.raises(UserError, match=r"another captions\.edits"):
        lineage.check(made, lineage.LATENTS)


def test_scores_of_a_student_of_other_params_are_refused(made: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "evaluate", lambda params: True)
    evaluate.main(write(made.overlay({"evaluate": {"metrics": ["psnr"]}}))[1:])
    longer = made.overlay({"distill": {"steps": made.distill.steps + 1}})
    with pytest.raises(UserError, match=rf"made with distill.steps: {made.distill.steps}, but the params have"):
        evaluate.main(write(longer)[1:])


def test_a_variant_of_another_seed_is_made_from_the_same_inputs(made: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablate_distill, "distill", lambda params, *, out, name, seed: out.mkdir(parents=True))
    ablate_distill.main(["--variant", "wo_tsm", "--seed", "7", *write(made)[1:]])
    student = f"{lineage.STUDENTS}/wo_tsm-seed7"
    lineage.check(variants.overlaid(made, "wo_tsm", 7), student)
    with pytest.raises(UserError, match="made with seed: 7"):
        lineage.check(variants.overlaid(made, "wo_tsm", 8), student)


def test_what_does_not_change_the_bytes_is_no_reason_to_refuse(made: Params) -> None:
    harmless = {"teacher": {"checkpoint": {"every": 7}}, "distill": {"num_workers": 2, "log_every": 3}}
    lineage.check(made.overlay(harmless), lineage.PAIRS, lineage.TEACHER, lineage.LATENTS, FULL)


def test_missing_and_unmarked_artifacts_are_named_with_their_command(made: Params) -> None:
    with pytest.raises(UserError, match=r"wo_tsm-seed0 is missing; run `dvc repro ablate-distill`"):
        lineage.check(made, f"{lineage.STUDENTS}/wo_tsm-seed0")
    Path("data/teacher", lineage.RECORD).unlink()
    with pytest.raises(UserError, match=r"data/teacher has no made_from\.json.*`dvc repro teacher`"):
        lineage.check(made, lineage.TEACHER)


def test_a_stage_that_fails_leaves_no_record(made: Params) -> None:
    shutil.rmtree("data/latents")
    with suppress(RuntimeError), lineage.making(lineage.LATENTS, made):
        Path("data/latents").mkdir()
        raise RuntimeError
    assert not Path("data/latents", lineage.RECORD).exists()


@pytest.mark.parametrize(
    ("key", "value"), [("prompts.default", "a"), ("precompute.flips", True), ("data.scale", 4), ("seed", 1)]
)
def test_a_sweep_over_what_its_trials_share_is_refused(made: Params, key: str, value: object) -> None:
    with pytest.raises(UserError, match=f"{re.escape(key)} decides data/"):
        sweep._check_inputs(made.overlay({"sweep": {"space": [{"key": key, "choice": [value]}]}}))


def test_dvc_makes_again_what_is_refused(root: Path) -> None:
    """Every param and input of an artifact is one of its stage, or `dvc repro` would not mend what is refused."""
    for path, artifact in lineage.ARTIFACTS.items():
        file, _, name = artifact.stage.rpartition(":")
        stage = yaml.safe_load((root / (file or "dvc.yaml")).read_text(encoding="utf-8"))["stages"][name]
        assert any(out.startswith(path) for out in stage["outs"] if isinstance(out, str))
        for key in artifact.params:
            if key == "seed" and "matrix" in stage:
                continue
            assert any(f"{key}.".startswith(f"{known}.") for known in stage["params"]), (path, key)
        for name in artifact.inputs:
            dep = "${captions.edits}" if name == lineage.EDITS else name
            assert any(f"{dep}/".startswith(f"{known}/") for known in (*stage["deps"], *stage["outs"])), (path, name)


def test_distill_trains_on_what_the_stages_before_it_made(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records agree with what precompute really writes."""
    monkeypatch.chdir(tmp_path)
    with lineage.making(lineage.PAIRS, params):
        write_pairs(Path("data/pairs/train"), count=2, side=64)
    with lineage.making(lineage.TEACHER, params):
        write_random_teacher(Path("data/teacher"))
    monkeypatch.setattr("sys.argv", write(params))
    precompute.main()
    lineage.check(params, lineage.PAIRS, lineage.TEACHER, lineage.LATENTS)
