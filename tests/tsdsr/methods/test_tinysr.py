"""The runs of a compression, on networks of a test's size: what they train, towards what, and what they leave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml

from tests.tiny import CHANNELS, random_prompt, tiny_transformer, tiny_vae
from tests.tsdsr.training.rig import ROOT, SMALL, RandomData, perceptual
from tsdsr.compression.decision import Decision
from tsdsr.config import RUNS, Params
from tsdsr.errors import UserError
from tsdsr.flow import FlowSchedule
from tsdsr.methods import METHODS
from tsdsr.methods.base import MethodInputs, Moment
from tsdsr.methods.tinysr.source import Source
from tsdsr.models.compact_vae import CompactVAE
from tsdsr.models.student import upsample
from tsdsr.training.checkpoint import CheckpointStore, Stopped
from tsdsr.training.trainer import Callbacks, Plan, Trainer

COMMON = ("steps", "batch_size", "accumulation", "num_workers", "precision", "ema_decay", "checkpoint", "log_every")


def config(run: str, **changes: Any) -> Any:
    """A run's recipe as the committed params have it, at the rig's size."""
    params = Params.load(ROOT / "params.yaml")
    method, added = RUNS[run]
    overlay = {"method": method, **params.compress.runs[run], **added, **{name: SMALL[name] for name in COMMON}}
    return params.overlay({"distill": overlay}).overlay({"distill": changes}).distill


def make(run: str, **changes: Any) -> Any:
    recipe = config(run, **changes)
    inputs = MethodInputs(
        recipe,
        tiny_vae(),
        tiny_transformer(num_layers=4),
        FlowSchedule(3.0),
        null=random_prompt(11),
        default=random_prompt(10),
        perceptual=perceptual,
        scale=4,
        use_shift=False,
        seed=0,
        adapter_seed=0,
    )
    return METHODS[recipe.method](inputs)


def trainer(method: Any, folder: Any, side: int = 8, **callbacks: Any) -> Trainer:
    recipe = method.inputs.config
    store = CheckpointStore(folder, "key", recipe.checkpoint.keep)
    return Trainer(
        method,
        RandomData(side),
        store,
        plan=Plan.of(recipe),
        device=torch.device("cpu"),
        callbacks=Callbacks(**callbacks),
    )


def parts(method: Any) -> dict[str, torch.Tensor]:
    return {f"{group.name}/{name}": value for group in method.groups() for name, value in group.parameters.items()}


def test_the_published_overlay_is_valid_and_has_the_published_settings() -> None:
    params = Params.load(ROOT / "params.yaml")
    for name in ("sd3-medium", "tinysr"):
        params = params.overlay(yaml.safe_load((ROOT / f"params/{name}.yaml").read_text(encoding="utf-8")))
    runs = params.compress.runs
    assert (params.compress.budget, params.compress.width) == (12, 64)
    assert [runs[name]["steps"] for name in RUNS] == [100_000, 150_000, 50_000, 100_000, 200_000]
    assert runs["restore_images"]["phases"]["all"]["losses"] == {"source_l1": 5.0, "lpips": 1.0, "gan": 0.3}
    assert {name: w for name, w in runs["decoder"]["phases"]["all"]["losses"].items() if w} == {
        "lpips": 3.0,
        "gan": 1.0,
    }


def test_a_mistyped_run_is_named() -> None:
    params = Params.load(ROOT / "params.yaml")
    with pytest.raises(UserError, match=r"compress\.runs\.prune: gates\.expansion"):
        params.overlay({"compress": {"runs": {"prune": {"gates": {"expansion": "best"}}}}})
    with pytest.raises(UserError, match="decider is `given`"):
        params.overlay({"compress": {"decider": "given"}})


def test_the_search_trains_gates_and_adapter_and_leaves_the_source(tmp_path) -> None:
    method = make("prune", source="abc")
    base = {name: value.clone() for name, value in method.inputs.transformer.named_parameters() if "lora" not in name}
    before = {name: value.detach().clone() for name, value in parts(method).items()}
    made = trainer(method, tmp_path / "checkpoints")
    made.run()
    changed = {name for name, value in parts(method).items() if not torch.equal(value, before[name])}
    assert {"gates/p", "gates/q"} < changed
    assert any("lora_B" in name for name in changed)
    for name, value in method.inputs.transformer.named_parameters():
        assert "lora" in name or torch.equal(value, base[name]), name
    assert [row["temperature"] for row in made.history][-1] < 4
    method.export(tmp_path / "out", {"a": 1})
    decision = Decision.read(tmp_path / "out" / "decision.json")
    assert (decision.decider, len(decision.blocks), decision.source) == ("learnt", 2, "abc")


def test_the_search_compares_with_the_whole_network() -> None:
    method = make("prune", source="abc")
    batch, turn = RandomData().batch([0, 1]), method.turns[0]
    whole = Source(method.inputs).restored(batch)
    seen = {}
    turn.terms = {
        "source_l1": lambda output: (
            seen.setdefault("z", output.moment.carried["z_source"]).sum() * 0 + output.z_hat.abs().mean((1, 2, 3))
        ),
        "lpips": turn.terms["lpips"],
    }
    turn.run(batch, Moment(0, 10, method.inputs.config.phases["all"]))
    torch.testing.assert_close(seen["z"], whole)
    assert not any(block._forward_hooks for block in method.inputs.transformer.transformer_blocks)


def test_gradient_checkpointing_changes_no_gradient_of_the_search() -> None:
    found = []
    for checkpointing in (False, True):
        method = make("prune", source="abc", gradient_checkpointing=checkpointing)
        method.inputs.transformer.train(checkpointing)
        method.turns[0].run(RandomData().batch([0, 1]), Moment(0, 10, method.inputs.config.phases["all"]))
        found.append({name: value.grad for name, value in parts(method).items() if value.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_restoration_starts_as_the_cut_network_and_trains_all_but_the_text(tmp_path) -> None:
    method = make("restore_images", source="abc", blocks=[0, 3])
    batch = RandomData().batch([0, 1])
    whole = Source(method.inputs).restored(batch)
    before = {name: value.detach().clone() for name, value in method.student.transformer.named_parameters()}
    made = trainer(method, tmp_path / "checkpoints")
    made.run()
    assert {"source_l1", "lpips", "gan", "discriminator"} <= made.history[-1].keys()
    for name, value in method.student.transformer.named_parameters():
        text = any(part in name for part in ("context", "add_"))
        assert torch.equal(value, before[name]) == text, name
    torch.testing.assert_close(Source(method.inputs).restored(batch), whole)  # the source has not moved
    method.export(tmp_path / "out", {})
    again = make("restore_latents", source="abc", blocks=[0, 3])
    again.go_on_from(tmp_path / "out")
    x_lq = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(again.restore(x_lq), method.restore(x_lq))


def test_restoration_brings_the_output_back_to_the_whole_networks(tmp_path) -> None:
    method = make("restore_latents", source="abc", blocks=[0, 3], steps=40)
    made = trainer(method, tmp_path)
    made.run()
    assert made.history[-1]["source_l1"] < 0.7 * made.history[0]["source_l1"]


def test_a_block_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"\[0, 4\] names a block"):
        make("restore_latents", source="abc", blocks=[0, 4])


def test_the_compact_autoencoder_is_trained_a_half_at_a_time(tmp_path) -> None:
    encoder = make("encoder", source="abc", steps=30)
    first = trainer(encoder, tmp_path / "1")
    first.run()
    assert first.history[-1]["source_mse"] < 0.8 * first.history[0]["source_mse"]
    encoder.export(tmp_path / "encoder", {})
    decoder = make("decoder", source="abc")
    decoder.go_on_from(tmp_path / "encoder")
    trained = encoder.vae.encoder.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in decoder.vae.encoder.state_dict().items())
    with pytest.raises(UserError, match=r"distill\.start: .*absent has no weights"):
        decoder.go_on_from(tmp_path / "absent")
    kept = {name: value.clone() for name, value in decoder.vae.encoder.named_parameters()}
    second = trainer(decoder, tmp_path / "2", side=24)  # the patch discriminator needs pictures of 32 px and its shift
    second.run()
    assert {"pixel_l1", "lpips", "gan", "discriminator"} <= second.history[-1].keys()
    assert all(torch.equal(value, kept[name]) for name, value in decoder.vae.encoder.named_parameters())
    decoder.export(tmp_path / "vae", {})
    assert CompactVAE.from_pretrained(tmp_path / "vae").config.latent_channels == CHANNELS


def test_the_compact_decoder_learns_the_sources_pictures() -> None:
    losses = {"pixel_l1": 1.0, "lpips": 0.0, "gan": 0.0}
    method = make("decoder", source="abc", decodes="source", phases={"all": {"losses": losses}})
    batch, source = RandomData().batch([0, 1]), Source(method.inputs).student
    with torch.no_grad():
        z = source.predict(source.codec.encode(upsample(batch.lq, 4)), method.inputs.default)
        wanted = (method.vae.decoder(z) - source.decode(z).clamp(-1, 1)).abs().mean()
    found = method.turns[0].run(batch, Moment(0, 10, method.inputs.config.phases["all"])).terms
    torch.testing.assert_close(found, {"pixel_l1": wanted})


@pytest.mark.parametrize("run", ["prune", "restore_images"])
def test_stopped_and_gone_on_with_it_is_the_same_to_the_bit(run, tmp_path) -> None:
    options = {"source": "abc"} | ({"blocks": [0, 3]} if run == "restore_images" else {})
    whole, stopped, going_on = (make(run, **options) for _ in range(3))
    trainer(whole, tmp_path / "whole").run()
    steps = []
    with pytest.raises(Stopped):
        trainer(
            stopped, tmp_path / "cut", on_step=lambda step, _: steps.append(step), stop=lambda: len(steps) == 3
        ).run()
    trainer(going_on, tmp_path / "cut").run()
    for name, value in parts(whole).items():
        assert torch.equal(value, parts(going_on)[name]), name
