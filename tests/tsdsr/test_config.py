from __future__ import annotations

import copy
import re

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
        ("distill.steps", 0, r"distill\.steps: 0 is outside of \[1, inf\)"),
        ("distill.steps", "many", "distill.steps: .*integer.*found 'many'"),
        ("distill.tsd.lambda", -1, "distill.tsd.lambda"),
        ("distill.tsd.lambda", float("nan"), "distill.tsd.lambda"),
        ("distill.tsd.t_range", [900, 100], "distill.tsd.t_range: the lower bound 900 is above the upper bound 100"),
        ("distill.tsd.t_range", [0, 950], "distill.tsd.t_range"),
        ("distill.accumulation", 1000, "multiple of num_workers x accumulation"),
        ("distill.phases.all.share", 0.99, "shares of the phases must sum to 1, found 0.99"),
        ("distill.phases.all.losses", {"tsd": 0, "lpips": 0.0}, "distill.phases.all: none of its losses"),
        ("distill.phases.all.losses", {}, "distill.phases.all: none of its losses"),
        ("distill.precision", "float16", "distill.precision: .*found 'float16'"),
        ("data.crop_size", 100, "crop_size must be a multiple of 16"),
        ("data.test_fraction", 1.5, "data.test_fraction"),
        ("degradation.first.resize.up", 0.9, "must sum to 1"),
        ("degradation.first.blur.kernel_sizes", [7, 8], "must be odd"),
        ("captions.source", "model", "captions.model names none"),
        ("ablate.run", ["wo_nothing"], "wo_nothing"),
        ("ablate.variants.wo_tsm", {"tsd": {"lamda": 1}}, "wo_tsm.*tsd.lamda: unknown key"),
        ("ablate.variants.wo_tsm", {"tsd": {"lambda": 7}}, r"wo_tsm: tsd\.lambda: 7.0 is outside of \[0, 1\]"),
        ("ablate.seeds", [0, 1, 0], "ablate: seeds names one twice"),
        ("sweep.space", [{"key": "distill.tsd.lambda", "uniform": [0, 7]}], r"sweep\.space: distill\.tsd\.lambda: 7"),
        ("evaluate.metrics", [], "evaluate.metrics"),
    ],
)
def test_a_bad_value_is_named_with_what_was_wanted(values, path, value, message):
    with pytest.raises(UserError, match=message):
        Params.parse(put(values, path, value), origin="params.yaml")


def test_a_decoder_that_is_trained_whole_is_in_float32(root, params):
    nano = params.overlay(yaml.safe_load((root / "params/nano.yaml").read_text(encoding="utf-8")))
    with pytest.raises(UserError, match=r"precision bfloat16: tsdsr_decoder trains a whole decoder"):
        nano.overlay({"distill": {"precision": "bfloat16"}})


def numbers(value, path="") -> dict[str, float]:
    """The numbers of nested mappings and lists, by their path; indices of lists are part of it."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        inner = (numbers(item, f"{path}.{key}".removeprefix(".")) for key, item in items)
        return {name: number for found in inner for name, number in found.items()}
    return {path: value} if isinstance(value, int | float) and not isinstance(value, bool) else {}


def replaced(value, keys: list[str], new):
    """A copy of nested mappings and lists with one value changed."""
    if not keys:
        return new
    items = value.items() if isinstance(value, dict) else enumerate(value)
    changed = {key: replaced(item, keys[1:], new) if str(key) == keys[0] else item for key, item in items}
    return changed if isinstance(value, dict) else list(changed.values())


def refusals(values: dict, keys: dict[str, float]) -> list[str]:
    """Paths whose value is accepted, or refused without naming key, value and range in one line."""
    wrong = []
    for path, value in keys.items():
        try:
            Params.parse(replaced(values, path.split("."), value))
            wrong.append(f"{path}: {value} is accepted")
        except UserError as error:
            first = str(error).split("; ")[0]
            if "\n" in str(error) or not re.search(rf"{re.escape(path)}: {value}\S* is outside of [\[(].*[\])]", first):
                wrong.append(f"{path}: {error}")
    return wrong


# What overlays and searches hold is checked as the key that it changes.
ELSEWHERE = ("ablate.variants.", "compress.runs.", "compress.compare.deciders.", "sweep.space.")


def test_no_number_of_params_may_be_below_its_meaning(values):
    """No key of params.yaml has a negative value that means anything, and few mean something at 0."""
    keys = {path for path in numbers(values) if not path.startswith(ELSEWHERE)}
    assert len(keys) > 100
    assert not refusals(values, dict.fromkeys(keys, -1))


def test_no_number_of_params_may_be_above_its_meaning(values):
    """Shares and probabilities up to 1, times up to 1000, 8-bit levels up to 255, qualities up to 100."""
    parts = r"probability|gray_|kinds\.|resize\.(up|down|keep)|fraction|dropout|share$|lambda|_lr$|learning_rate|gpus$"
    above = {
        rf"{parts}|betas\.|ema_decay": 2,
        r"t_range\.|step_size$": 1001,
        r"gaussian_sigma\.": 256,
        r"jpeg_quality\.": 101,
        r"data\.scale$": 9,
        r"seed(s\.\d+)?$": 2**32,
    }
    found = {path: limit for path in numbers(values) for keys, limit in above.items() if re.search(keys, path)}
    assert len(found) > 50
    assert not refusals(values, {path: value for path, value in found.items() if not path.startswith(ELSEWHERE)})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("distill.tsd.t_range.0", 0),
        ("distill.optimizer.betas.1", 1),
        ("distill.ema_decay", 1.0),
        ("distill.lr_schedule.cycles", 0),
        ("data.test_fraction", 1.0),
        ("degradation.first.blur.sigma.0", 0),
        ("sweep.early_stopping.reduction", 1),
    ],
)
def test_the_ends_of_an_open_range_are_outside_of_it(values, path, value):
    assert not refusals(values, {path: value})


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


VSD = {"method": "vsd", "vsd": {"t_range": [20, 980]}, "phases": {"all": {"share": 1.0, "losses": {"vsd": 1.0}}}}


def test_an_overlay_may_name_another_method_and_leaves_the_former_ones_own_keys(params):
    found = params.overlay({"distill": VSD})
    distill = found.to_dict()["distill"]
    assert distill["method"] == "vsd"
    assert list(distill["phases"]) == ["all"]
    assert distill["lora"] == params.to_dict()["distill"]["lora"]
    assert "tsd" not in distill
    assert not found.ablate.variants
    assert all(".tsd." not in draw.key for draw in found.sweep.space)
    assert Params.parse(found.to_dict()) == found


def test_phases_of_other_names_replace_those_that_there_are(params):
    half = {"share": 0.5, "dasm": True, "losses": {"tsd": 1.0}}
    found = params.overlay({"distill": {"phases": {"first": half, "second": half}}})
    assert list(found.distill.phases) == ["first", "second"]
    assert found.ablate == params.ablate  # whose variants name the phases of params.yaml, and give all of them
    assert all(".phases." not in draw.key for draw in found.sweep.space)
    weight = params.overlay({"distill": {"phases": {"all": {"losses": {"tsd": 5.0}}}}}).distill.phases["all"]
    assert (weight.share, weight.losses) == (1.0, {**params.distill.phases["all"].losses, "tsd": 5.0})


def test_a_variant_may_be_another_method(params):
    changed = params.overlay({"ablate": {"variants": {"osediff": VSD}}})
    assert changed.overlay({"distill": changed.ablate.variants["osediff"]}).distill.method == "vsd"


def test_an_unknown_method_is_named(params):
    with pytest.raises(UserError, match=r"distill: .*'other'.*'tsdsr', 'tsdsr_decoder', 'vsd'"):
        params.overlay({"distill": {"method": "other"}})
    with pytest.raises(UserError, match="wo_tsm: method: unknown 'other'; known are tsdsr, tsdsr_decoder, vsd"):
        params.overlay({"ablate": {"variants": {"wo_tsm": {"method": "other"}}}})


def test_a_decoders_training_needs_images_that_its_terms_can_see(params):
    decoder = {
        "learning_rate": 1e-4,
        "discriminator_learning_rate": 1e-4,
        "texture_weight": 0.5,
        "pattern_weight": 0.5,
        "adversarial_weight": 0.5,
        "noise": 0.0,
        "extrapolation": 0.0,
    }
    recipe = {
        "method": "tsdsr_decoder",
        "phases": {"all": {"share": 1.0, "dasm": False, "losses": {"latent_mse": 1.0}}},
    }
    with pytest.raises(
        UserError, match=r"teacher\.decoder: .*crop_size: 64 is too small for pattern_weight: at least 128"
    ):
        params.overlay({"teacher": {"decoder": {"steps": 1, "pattern_weight": 0.5}}})
    with pytest.raises(UserError, match=r"data\.crop_size: 96 is too small for pattern_weight"):
        params.overlay({"distill": {**recipe, "decoder": decoder}})
    changes = {"augment": {"crop_size": 32}, "decoder": {**decoder, "pattern_weight": 0.0}}
    with pytest.raises(UserError, match=r"distill\.augment\.crop_size: 32 is too small for the training of a decoder"):
        params.overlay({"distill": {**recipe, **changes}})
