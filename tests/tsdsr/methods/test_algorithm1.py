"""Both turns against the literal Algorithm 1, which shares no code with them: every loss and every gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.reference.algorithm1 import LiteralStep
from tests.reference.measuring import compare
from tests.reference.sides import draws_of, pefts_own, settings_of
from tests.tiny import random_prompt
from tests.tsdsr.training.rig import RandomData, distill_config, fake_score_turn, method, perceptual, student_turn
from tsdsr.config.methods.tsdsr import TSDPhaseConfig
from tsdsr.models import adapters

LOSSES = {"lpips": 1.0, "tsd": 2.0, "latent_mse": 0.5}
CASES: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "every saving of memory": {"gradient_checkpointing": True, "low_memory": True, "vae_slice": 1},
    "without TSM": {"tsd": {"lambda": 1.0}},
    "TSM alone": {"tsd": {"lambda": 0.0}},
    "without DASM": {"tsd": {"dasm": {"steps": 0}}},
    "a step below 0": {"tsd": {"t_range": [50, 200], "dasm": {"step_size": 90, "weight": 0.7}}},
    "dropped captions": {"fake_score": {"caption_dropout": 0.6}, "guidance_scale": {"teacher": 3.0, "fake_score": 1.5}},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_losses_and_gradients_are_the_literal_versions(changes: dict[str, Any]) -> None:
    config, batch = distill_config(**changes), RandomData().batch(range(3, 7))
    ours = method(config)
    networks = ours.student.transformer, ours.student.transformer, ours.student.vae
    generator, scorer, vae = (pefts_own(copy.deepcopy(network)) for network in networks)
    default, null = random_prompt(10), random_prompt(11)
    literal = LiteralStep(
        generator,
        scorer,
        vae,
        (default.embeds, default.pooled),
        (null.embeds, null.pooled),
        perceptual,
        settings_of(config, LOSSES),
    )
    caption, draws = (batch.embeds, batch.pooled), draws_of(config, batch)
    assert draws.fake_dropped.any() == ("fake_score" in changes)

    output = student_turn(ours, batch, TSDPhaseConfig(share=1.0, dasm=True, losses=LOSSES))
    found = {f"loss.{name}": value for name, value in output.terms.items()}
    found["loss.fake_score"] = fake_score_turn(ours, batch, output.carried["z_hat"])
    losses = literal.student_turn(batch.lq, batch.hq, batch.z, caption, draws)
    z_hat = losses.pop("z_hat")
    wanted = {f"loss.{name}": value for name, value in losses.items()}
    wanted["loss.fake_score"] = literal.fake_score_turn(z_hat, caption, draws)

    student = ours.student
    for part, name, model, other in (
        ("transformer", adapters.STUDENT, student.transformer, generator),
        ("vae", adapters.STUDENT, student.vae, vae),
        ("fake_score", adapters.FAKE_SCORE, student.transformer, scorer),
    ):
        found |= {f"{part}.{key}": p.grad for key, p in adapters.parameters(model, name).items()}
        wanted |= {f"{part}.{key}": p.grad for key, p in adapters.parameters(other, name).items()}
    idle = {name.rsplit(".", 2)[0] for name, value in wanted.items() if not float(value.norm())}
    last = "transformer_blocks.1.attn.add_q_proj"  # its text queries answer what nobody reads
    assert idle == {f"transformer.{last}", f"fake_score.{last}"}
    difference, where = compare(found, wanted)
    assert difference < 1e-4, where
