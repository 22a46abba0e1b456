"""The stages of a compression, on networks with random weights: what they leave, what they refuse, how they go on."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline import compare_deciders, compress, evaluate_compressed, precompute
from pipeline.stages import lineage
from tests.teachers import write_pairs, write_random_teacher
from tsdsr import files
from tsdsr.compression.decision import Decision
from tsdsr.config import Params
from tsdsr.data.cache import LatentCache
from tsdsr.errors import UserError
from tsdsr.inference.opening import find_model
from tsdsr.models.student import Student
from tsdsr.models.teacher import load_teacher

RUNS = ("prune", "restore_latents", "restore_images", "encoder", "decoder")


def write_student(params: Params) -> None:
    """As distill writes it, with adapters that change nothing."""
    teacher = load_teacher(lineage.TEACHER, text_encoders=False)
    student = Student(teacher.vae, teacher.transformer, use_shift=False)
    teacher.transformer.requires_grad_(False)
    student.add_adapters(rank=2, vae_rank=2, alpha=2, seed=0, trainable=False)
    record = {"lora": {"rank": 2, "alpha": 2, "vae_rank": 2}, "use_shift": False, "scale": params.data.scale}
    student.save(Path(lineage.FULL), record, LatentCache.open(lineage.LATENTS).default)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Params]:
    """A working directory in which every stage of the compression has run."""
    overlay = yaml.safe_load((root / "params/smoke.yaml").read_text(encoding="utf-8"))
    params = Params.load(root / "params.yaml").overlay(overlay)
    without = {name: {"phases": {"all": {"losses": {"lpips": 0.0}}}} for name in ("prune", "restore_images", "decoder")}
    short = {name: {"steps": 2, **without.get(name, {})} for name in RUNS}  # LPIPS would be half of the time
    params = params.overlay({"compress": {"runs": short}, "evaluate": {"metrics": ["psnr"]}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("compress"))
        with lineage.making(lineage.PAIRS, params):
            write_pairs(Path("data/pairs/train"), count=4, side=64)
            write_pairs(Path("data/pairs/test"), count=2, side=64, seed=1)
            files.write_json("data/pairs/manifest.json", {})
        with lineage.making(lineage.TEACHER, params):
            write_random_teacher(Path(lineage.TEACHER))
        Path("params.yaml").write_text(yaml.safe_dump(params.to_dict()), encoding="utf-8")
        patch.setattr("sys.argv", ["stage"])
        precompute.main()
        with lineage.making(lineage.FULL, params):
            write_student(params)
        for part in compress.PARTS.values():
            part(params)
        evaluate_compressed.main()
        yield params


def names(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def test_each_stage_leaves_what_the_next_one_reads(made: Params) -> None:
    decision = Decision.read(compress.DECISION / "decision.json")
    assert (decision.decider, len(decision.blocks), len(decision.scores)) == ("learnt", 2, 4)
    cut = files.read_json(compress.TRANSFORMER / "config.json")
    assert cut["num_layers"] == 2
    assert files.read_json(compress.VAE / "config.json")["separable_encoder"]
    for name in RUNS:
        assert Path(f"reports/curves/tinysr_{name}.csv").is_file()


def test_no_path_of_this_machine_is_in_what_dvc_hashes(made: Params) -> None:
    for record in Path("data/tinysr").rglob("*.json"):
        assert str(Path.cwd()) not in record.read_text(), record


def test_the_compressed_student_is_an_upscaler_and_is_scored(made: Params) -> None:
    upscaler = find_model("tinysr").open()
    image = np.random.default_rng(0).random((1, 3, 24, 40), np.float32)
    assert sum(strip.shape[2] for strip in upscaler.strips(image, (96, 160))) == 96
    with Path("reports/scores/tinysr.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows} == names("data/pairs/test/hq") == names("data/restored/tinysr")
    cost = files.read_json("reports/runs/tinysr.json")["cost"]
    assert 0.5 < cost["params_m"] < 2


def test_a_stage_refuses_what_other_params_made(made: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress, "distill", lambda *_, **__: pytest.fail("it trains"))
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"decider": "first_last"}, "restore", "compress-prune"),
        ({"runs": {"restore_images": {"steps": 3}}}, "export", "compress-restore"),
        ({"separable": {"decoder": True}}, "export", "compress-vae"),
    ]
    for change, part, stage in cases:
        with pytest.raises(UserError, match=f"run `dvc repro compress/dvc.yaml:{stage}` first"):
            compress.PARTS[part](made.overlay({"compress": change}))
    with pytest.raises(UserError, match=r"^data/students/full was made with distill.steps"):
        compress.prune(made.overlay({"distill": {"steps": 5}}))


def test_another_decision_leaves_the_autoencoder_valid(made: Params) -> None:
    other = made.overlay({"compress": {"decider": "given", "blocks": [1, 2]}})
    lineage.check(other, lineage.SOURCE, lineage.COMPACT)
    with pytest.raises(UserError, match=r"^data/tinysr/decision was made with compress\.blocks"):
        lineage.check(other, lineage.DECISION)


def test_the_budget_is_that_of_the_gates(made: Params) -> None:
    with pytest.raises(UserError, match=r"compress\.budget: 3, but compress\.runs\.prune\.gates keeps 2 of 4"):
        compress.decide(made.overlay({"compress": {"budget": 3}}))


def test_a_finished_run_is_not_trained_again_until_something_that_decides_it_changes(
    made: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []

    def train(params: Params, *, out: Path, name: str, **_: Any) -> None:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(name)
        out.mkdir(parents=True)

    monkeypatch.setattr(compress, "distill", train)
    decision = Decision.read(compress.DECISION / "decision.json")
    compress.restored(made, decision)
    assert trained == ["tinysr_restore_latents", "tinysr_restore_images"]
    compress.restored(made, decision)  # both are there
    for change in ({"compress": {"runs": {"restore_latents": {"steps": 3}}}}, {"seed": 1}):
        with pytest.raises(KeyboardInterrupt):
            compress.restored(made.overlay(change), decision)
    with pytest.raises(KeyboardInterrupt):
        compress.restored(made.overlay({"compress": {"runs": {"restore_images": {"steps": 3}}}}), decision)


def test_deciders_are_compared_at_equal_budget_and_equal_blocks_restored_once(
    made: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"restore_latents": {"steps": 1}, "restore_images": {"steps": 1}}
    values = made.overlay({"compress": {"runs": short}}).to_dict()
    deciders = {"first_last": {"decider": "first_last"}, "given": {"decider": "given", "blocks": [0, 3]}}
    values["compress"]["compare"] = {"seeds": [0], "deciders": deciders}
    params = Params.parse(values)
    trained: list[str] = []
    really = compress.distill

    def train(params: Params, **options: Any) -> None:
        trained.append(options["name"])
        really(params, **options)

    monkeypatch.setattr(compress, "distill", train)
    runs, decisions = compare_deciders.compare(params)
    assert trained == ["tinysr_restore_latents", "tinysr_restore_images"]
    assert runs["first_last"] == runs["given"]
    assert set(runs["given"][0]["psnr"]) == names("data/pairs/test/hq")
    assert compare_deciders.table(decisions).splitlines()[1:] == [
        "first_last,0,0 3,1.5 0.5 0.5 1.5",
        "given,0,0 3,1 0 0 1",
    ]
    with pytest.raises(UserError, match=r"compress\.compare\.deciders\.given: compress\.decider"):
        compare_deciders.compare(made.overlay({"compress": {"compare": {"deciders": {"given": {"decider": "best"}}}}}))
