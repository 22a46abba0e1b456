from __future__ import annotations

import copy

import pytest
import yaml
from pydantic import ValidationError

from tsdsr.config import Params, merge
from tsdsr.errors import UserError


@pytest.fixture
def values(root) -> dict:
    return yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))


def put(values: dict, path: str, value) -> dict:
    """A copy with one key set."""
    changed = copy.deepcopy(values)
    *parents, last = path.split(".")
    section = changed
    for key in parents:
        section = section[key]
    section[last] = value
    return changed


def test_the_committed_file_is_valid_and_mirrored_key_for_key(values, params):
    def keys(value):
        return {key: keys(inner) for key, inner in value.items()} if isinstance(value, dict) else None

    assert keys(params.to_dict()) == keys(values)


def test_it_round_trips(params):
    assert Params.parse(params.to_dict()) == params


def test_every_overlay_is_valid(root, params):
    overlays = sorted((root / "params").glob("*.yaml"))
    assert overlays
    for path in overlays:
        params.overlay(yaml.safe_load(path.read_text(encoding="utf-8")) or {}, origin=path.name)


def test_random_crops_leave_every_committed_variant_valid(params):
    assert params.overlay({"distill": {"augment": {"crop_size": 64}}}).distill.augment.crop_size == 64


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("distill.tsd.lamda", 0.5, "distill.tsd.lamda: unknown key"),
        ("distil", {}, "distil: unknown key"),
        ("distill.steps", 0, "distill.steps: .*greater than or equal to 1.*found 0"),
        ("distill.steps", "many", "distill.steps: .*integer.*found 'many'"),
        ("distill.tsd.lambda", -1, "distill.tsd.lambda"),
        ("distill.tsd.lambda", float("nan"), "distill.tsd.lambda"),
        ("distill.tsd.t_range", [900, 100], "distill.tsd: the lower bound 900.* above the upper"),
        ("distill.tsd.t_range", [0, 950], "distill.tsd.t_range"),
        ("distill.accumulation", 1000, "multiple of num_workers x accumulation"),
        ("distill.phases.late.share", 0.99, "shares of the phases must sum to 1, found 1"),
        ("distill.phases.late.losses", {"tsd": 0, "lpips": 0.0}, "distill.phases.late: none of its losses"),
        ("distill.phases.late.losses", {}, "distill.phases.late: none of its losses"),
        ("distill.precision", "float16", "distill.precision: .*found 'float16'"),
        ("data.crop_size", 100, "crop_size must be a multiple of 16"),
        ("data.test_fraction", 1.5, "data.test_fraction"),
        ("degradation.first.resize.up", 0.9, "must sum to 1"),
        ("degradation.first.blur.kernel_sizes", [7, 8], "must be odd"),
        ("captions.source", "model", "captions.model names none"),
        ("ablate.run", ["wo_nothing"], "wo_nothing"),
        ("ablate.variants.wo_tsm", {"tsd": {"lamda": 1}}, "wo_tsm.*tsd.lamda: unknown key"),
    ],
)
def test_a_bad_value_is_named_with_what_was_wanted(values, path, value, message):
    with pytest.raises(UserError, match=message):
        Params.parse(put(values, path, value), origin="params.yaml")


def test_a_missing_key_is_an_error_and_not_a_default(values):
    del values["distill"]["tsd"]["dasm"]["weight"]
    with pytest.raises(UserError, match=r"distill\.tsd\.dasm\.weight: missing"):
        Params.parse(values)


def test_every_mistake_is_named_at_once(values):
    values = put(put(values, "distill.steps", 0), "seed", -1)
    with pytest.raises(UserError, match=r"seed.*distill\.steps|distill\.steps.*seed"):
        Params.parse(values)


def test_files_that_are_no_params(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Params.load(tmp_path / "absent.yaml")
    for text, message in [("a: [", "not valid YAML"), ("- a", "expected a mapping"), ("", "expected a mapping")]:
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            Params.load(tmp_path / "params.yaml")


def test_an_overlay_changes_what_it_names_and_is_checked(params):
    changed = params.overlay({"distill": {"tsd": {"lambda": 0.25}}})
    assert changed.distill.tsd.lam == 0.25
    assert changed.distill.tsd.dasm == params.distill.tsd.dasm
    assert params.distill.tsd.lam == 0.7
    with pytest.raises(UserError, match=r"variant x: distill\.tsd\.lambdas: unknown key"):
        params.overlay({"distill": {"tsd": {"lambdas": 1}}}, origin="variant x")


def test_params_are_frozen(params):
    with pytest.raises(ValidationError):
        params.seed = 3


def test_merge_leaves_its_arguments_alone():
    base, changes = {"a": {"b": 1, "c": [1]}}, {"a": {"b": 2}}
    assert merge(base, changes) == {"a": {"b": 2, "c": [1]}}
    assert base == {"a": {"b": 1, "c": [1]}}
    assert merge({"a": {"b": 1}}, {"a": None}) == {"a": None}
