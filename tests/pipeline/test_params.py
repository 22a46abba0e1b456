"""Overlays: every committed one is valid, and applying one changes its keys and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline import params as overlays
from tsdsr.config import Params, flatten
from tsdsr.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
COMMITTED = REPOSITORY / "params.yaml"
ALL = sorted((REPOSITORY / "params").glob("*.yaml"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copy(COMMITTED, tmp_path / "params.yaml"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_overlay_applies_and_keeps_the_rest(path: Path, copy: Path) -> None:
    overlay = overlays.read_overlays([path])
    overlays.apply(copy, overlay)
    assert Params.load(copy) == Params.load(COMMITTED).overlay(overlay)
    if "method" in overlay.get("distill", {}):
        return  # the former method's keys leave with their comments
    comments = [line.partition("# ")[2] for line in COMMITTED.read_text().splitlines() if "# " in line]
    text = copy.read_text()
    assert [comment for comment in comments if comment not in text] == []


@pytest.mark.parametrize("recipe", ["paper", "paper-v1", "released"])
def test_recipes_stack_on_the_large_preset(recipe: str) -> None:
    overlay = overlays.read_overlays([REPOSITORY / f"params/{name}.yaml" for name in ("sd3-medium", recipe)])
    params = Params.load(COMMITTED).overlay(overlay)
    assert params.data.crop_size == 512
    assert params.distill.steps == 200_000
    assert params.distill.optimizer.student_lr == 5e-6
    assert params.sweep.resources.gpus == 1  # or as many trials as there are CPUs would train on CPUs


@pytest.mark.parametrize(("card", "photographs"), [("80gb", 16), ("8x24gb", 2)])
def test_larger_machines_stack_on_the_large_preset(card: str, photographs: int) -> None:
    names = ("sd3-medium", "paper", f"sd3-medium-{card}")
    paths = [REPOSITORY / f"params/{name}.yaml" for name in names]
    distill = Params.load(COMMITTED).overlay(overlays.read_overlays(paths)).distill
    assert not distill.gradient_checkpointing
    assert distill.batch_size // distill.num_workers // distill.accumulation == photographs


def test_the_nano_model_on_a_gpu_is_the_same_recipe_with_more_steps_and_larger_batches() -> None:
    names = (["nano"], ["nano", "nano-gpu"])
    paths = [[REPOSITORY / f"params/{name}.yaml" for name in stack] for stack in names]
    cpu, gpu = (Params.load(COMMITTED).overlay(overlays.read_overlays(stack)) for stack in paths)
    changed = {key for key, value in flatten(gpu.to_dict()).items() if flatten(cpu.to_dict())[key] != value}
    sizes = {"steps", "batch_size", "every", "readers", "noise"}
    assert {key.rsplit(".", 1)[1] for key in changed} == sizes
    crops_of_192 = gpu.teacher.flow.steps * gpu.teacher.flow.batch_size * (gpu.data.crop_size / 192) ** 2
    assert 2_000_000 <= crops_of_192 <= 4_000_000


def test_recipes_leave_no_loss_of_the_params_below_them() -> None:
    """T4: latent MSE early and not late, DASM late and not early, the regulariser weighed by 1 and then by 2. The first
    version has LPIPS and TSD throughout, the released script the latent MSE as well."""
    found = {}
    for recipe in ("paper", "paper-v1", "released"):
        phases = Params.load(COMMITTED).overlay(overlays.read_overlays([REPOSITORY / f"params/{recipe}.yaml"]))
        found[recipe] = [
            (phase.dasm, {name: weight for name, weight in phase.losses.items() if weight})
            for phase in phases.distill.phases.values()
        ]
    early, late = {"lpips": 1.0, "tsd": 1.0, "latent_mse": 1.0}, {"lpips": 1.0, "tsd": 2.0}
    assert found["paper"] == [(False, early), (True, late)]
    assert found["paper-v1"] == [(True, {"lpips": 1.0, "tsd": 1.0})]
    assert found["released"] == [(True, {"lpips": 1.0, "tsd": 1.0, "latent_mse": 1.0})]


def test_nothing_to_change_leaves_the_file_as_it_is(copy: Path) -> None:
    overlays.apply(copy, {})
    assert copy.read_text() == COMMITTED.read_text()


def test_one_changed_key_changes_one_line(copy: Path) -> None:
    overlays.apply(copy, {"distill": {"steps": 77}})
    changed = [
        (old, new) for old, new in zip(COMMITTED.read_text().splitlines(), copy.read_text().splitlines()) if old != new
    ]
    assert [new for _, new in changed] == ["  steps: 77"]


@pytest.mark.parametrize(
    ("overlay", "named"),
    [({"distill": {"stepz": 1}}, "distill.stepz"), ({"distill": {"steps": 0}}, "distill.steps")],
)
def test_an_invalid_overlay_is_refused_before_anything_is_written(
    overlay: dict[str, object], named: str, copy: Path
) -> None:
    before = copy.read_bytes()
    with pytest.raises(UserError, match=named):
        overlays.apply(copy, overlay)
    with pytest.raises(UserError, match=named):
        overlays.flags(copy, overlay)
    assert copy.read_bytes() == before


def test_files_that_are_not_overlays_are_named(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    for name in ("list.yaml", "broken.yaml", "absent.yaml"):
        with pytest.raises(UserError, match=name):
            overlays.read_overlays([tmp_path / name])


def test_later_overlays_win(tmp_path: Path) -> None:
    for name, steps in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"distill": {"steps": steps, name: 0}}))
    merged = overlays.read_overlays([tmp_path / "a.yaml", tmp_path / "b.yaml"])
    assert merged == {"distill": {"steps": 2, "a": 0, "b": 0}}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_flags_give_dvc_what_apply_writes(path: Path, copy: Path) -> None:
    """DVC's own parser of `-S` reads the flags back to the overlaid params."""
    from dvc.utils.hydra import apply_overrides

    overlay = overlays.read_overlays([path])
    given = overlays.flags(COMMITTED, overlay)
    assert given[::2] == ["-S"] * (len(given) // 2)
    apply_overrides(copy, given[1::2])
    assert Params.load(copy) == Params.load(COMMITTED).overlay(overlay)


def test_flags_reach_dvc_through_xargs(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`... flags X | xargs dvc exp run`: `$(...)` would keep the quotes that lists need, and dvc would refuse them."""
    overlay = {"distill": {"tsd": {"t_range": [60, 940]}}, "prompts": {"default": 'it\'s "one" text'}}
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    overlays.main(["--params", str(copy), "flags", str(path)])
    words = subprocess.run(
        ["xargs", "printf", "%s\\n"], input=capsys.readouterr().out, capture_output=True, text=True, check=True
    ).stdout
    assert words.splitlines() == overlays.flags(copy, overlay)


@pytest.mark.parametrize(
    "value", ["it's, a {test}: [1]", "", "null", "a/b-c.d", "1", "true", "a=b", 'say "x"', None, True, [1, "a"]]
)
def test_awkward_values_survive_the_flags(value: object, copy: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    apply_overrides(copy, overlays._overrides({"prompts": {"default": value}}, yaml.safe_load(copy.read_text()), ""))
    assert yaml.safe_load(copy.read_text())["prompts"]["default"] == value
