from __future__ import annotations

import pytest
import torch

from tests.tiny import relative
from tests.tsdsr.training.rig import RandomData, distill_config, fake_score_turn, gradients, method, student_turn
from tsdsr.config.methods.tsdsr import TSDPhaseConfig
from tsdsr.errors import UserError
from tsdsr.methods import tsdsr
from tsdsr.models import adapters

POSITIONS = [3, 4, 5]


def phase(**losses: float) -> TSDPhaseConfig:
    return TSDPhaseConfig(share=1.0, dasm=True, losses=losses)


def turn(config, losses: dict[str, float], positions=POSITIONS, share: float = 1.0, **options):
    maker = method(config, **options)
    output = student_turn(maker, RandomData().batch(positions), phase(**losses), share)
    return maker, output


def close(found: dict, wanted: dict, tolerance: float = 1e-4) -> None:
    assert found.keys() == wanted.keys()
    worst = {name: relative(found[name], wanted[name]) for name in wanted if float(wanted[name].norm()) > 1e-12}
    assert max(worst.values()) < tolerance, max(worst, key=worst.get)


def test_tsd_reaches_both_of_the_students_adapters_and_nothing_else():
    maker, _ = turn(distill_config(), {"tsd": 1.0})
    found = gradients(maker.student)
    assert found
    assert all(".student." in name for name in found)
    for part in ("transformer", "vae"):
        assert any(float(g.abs().max()) > 0 for name, g in found.items() if name.startswith(part))


def test_the_fake_scores_turn_trains_the_fake_score_alone():
    maker = method(distill_config())
    batch = RandomData().batch(POSITIONS)
    loss = fake_score_turn(maker, batch, batch.z + 0.3, update=0)
    found = gradients(maker.student)
    assert float(loss) > 0
    assert found.keys() == {
        f"transformer/{name}" for name, _ in maker.student.transformer.named_parameters() if ".fake_score." in name
    }


def test_the_tsd_gradient_is_direction_over_numel_pulled_through_the_student():
    """d loss / d theta = J^T (direction / numel), with J^T taken by autograd at the same student."""
    config = distill_config()
    maker, _ = turn(config, {"tsd": 1.0})
    other = method(config)
    batch = RandomData().batch(POSITIONS)
    z_hat = other.turns[0].network(
        torch.nn.functional.interpolate(batch.lq, scale_factor=4, mode="bicubic").clamp(-1, 1)
    )
    direction = other.tsd(z_hat, batch, dasm=True).direction
    z_hat.backward(direction / direction.numel())
    close(gradients(maker.student), gradients(other.student))


def test_teacher_and_fake_score_see_their_own_adapters(monkeypatch):
    """During the student's turn psi runs on the bare base, phi with its adapter, the student with its own."""
    maker = method(distill_config())
    transformer, seen = maker.student.transformer, []
    layer = transformer.transformer_blocks[0].attn.to_q
    layer.register_forward_pre_hook(lambda module, args: seen.append(tuple(module._active_adapter)))
    student_turn(maker, RandomData().batch(POSITIONS), phase(tsd=1.0))
    assert seen[0] == ("student",)
    assert seen[1:] == [(), ("fake_score",)] * 4  # the base point and 3 further ones
    assert layer._active_adapter == []


@pytest.mark.parametrize("losses", [{"tsd": 1.0}, {"lpips": 1.0, "tsd": 0.5, "latent_mse": 2.0}])
@pytest.mark.parametrize(
    "saving", [{"gradient_checkpointing": True}, {"vae_slice": 1}, {"vae_slice": 2, "gradient_checkpointing": True}]
)
def test_saving_memory_gives_the_same_gradients(losses, saving):
    """The forward is repeated during backward, when the teacher and phi have been at work in between."""
    plain, _ = turn(distill_config(), losses)
    again, _ = turn(distill_config(**saving), losses)
    close(gradients(again.student), gradients(plain.student), 1e-5)


def test_gradient_checkpointing_gives_the_fake_score_the_same_gradients():
    fakes = []
    for flag in (False, True):
        maker = method(distill_config(gradient_checkpointing=flag))
        batch = RandomData().batch(POSITIONS)
        fake_score_turn(maker, batch, batch.z, update=0)
        fakes.append(gradients(maker.student))
    close(fakes[1], fakes[0], 1e-5)


def test_checkpointing_repeats_the_forward(monkeypatch):
    counts = []
    for flag in (False, True):
        maker = method(distill_config(gradient_checkpointing=flag))
        calls = []
        maker.student.transformer.transformer_blocks[0].register_forward_pre_hook(
            lambda module, args, kwargs, calls=calls: calls.append(torch.is_grad_enabled()), with_kwargs=True
        )
        student_turn(maker, RandomData().batch(POSITIONS), phase(latent_mse=1.0))
        counts.append(len(calls))
    assert counts == [1, 2]


def test_the_vae_takes_its_slices_one_by_one():
    maker, rows = method(distill_config(vae_slice=2)), []
    for network in (maker.student.vae.encoder, maker.student.vae.decoder):
        network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    student_turn(maker, RandomData().batch(POSITIONS), phase(lpips=1.0))
    assert rows[:4] == [2, 1, 2, 1]  # the encoder's, then the decoder's
    assert sorted(rows[4:]) == [1, 1, 2, 2]  # again, in the backward
    rows.clear()
    with torch.no_grad():  # what keeps no graph has nothing to slice
        maker.student.decode(torch.zeros(3, 4, 8, 8))
    assert rows == [3]


def test_low_memory_gives_the_same_gradients():
    plain, _ = turn(distill_config(), {"tsd": 1.0})
    low, _ = turn(distill_config(low_memory=True), {"tsd": 1.0})
    close(gradients(low.student), gradients(plain.student))


def test_a_batch_equals_its_samples():
    """Noise, times and dropped captions belong to positions, so the mean over samples is the batch's gradient."""
    config, losses = distill_config(), {"lpips": 1.0, "tsd": 1.0, "latent_mse": 1.0}
    whole, output = turn(config, losses)
    parts = [turn(config, losses, [position], share=1 / 3) for position in POSITIONS]
    summed = {name: sum(gradients(maker.student)[name] for maker, _ in parts) for name in gradients(whole.student)}
    close(summed, gradients(whole.student), 1e-3)
    z_hat = torch.cat([part.carried["z_hat"] for _, part in parts])
    torch.testing.assert_close(z_hat, output.carried["z_hat"], rtol=1e-4, atol=1e-5)
    for name, value in output.terms.items():
        torch.testing.assert_close(
            torch.stack([part.terms[name] for _, part in parts]).mean(), value, rtol=1e-3, atol=0
        )


def test_the_fake_scores_batch_equals_its_samples():
    config, batch = distill_config(fake_score={"caption_dropout": 0.5}), RandomData().batch(POSITIONS)
    whole = method(config)
    fake_score_turn(whole, batch, batch.z, update=0)
    parts = [method(config) for _ in POSITIONS]
    for maker, position in zip(parts, POSITIONS, strict=True):
        one = RandomData().batch([position])
        fake_score_turn(maker, one, one.z, update=0, share=1 / 3)
    summed = {name: sum(gradients(m.student)[name] for m in parts) for name in gradients(whole.student)}
    close(summed, gradients(whole.student), 1e-3)


def test_dropped_captions_train_the_null_branch():
    config, batch = distill_config(fake_score={"caption_dropout": 1.0}), RandomData().batch(POSITIONS)
    dropped = method(config)
    null = dropped.inputs.null
    rows = len(POSITIONS)
    by_hand = type(batch)(
        **{
            **batch.__dict__,
            "embeds": null.embeds.expand(rows, -1, -1),
            "pooled": null.pooled.expand(rows, -1),
        }
    )
    kept = method(distill_config(fake_score={"caption_dropout": 0.0}))
    assert float(fake_score_turn(dropped, batch, batch.z, 0)) == pytest.approx(
        float(fake_score_turn(kept, by_hand, batch.z, 0))
    )


def test_further_updates_draw_other_noise():
    maker, batch = method(distill_config()), RandomData().batch(POSITIONS)
    assert float(fake_score_turn(maker, batch, batch.z, 0)) != float(fake_score_turn(maker, batch, batch.z, 1))


def test_dasm_is_the_phases_choice():
    maker, batch = method(distill_config()), RandomData().batch(POSITIONS)
    base = maker.tsd(batch.z + 0.1, batch, dasm=False).direction
    none = method(distill_config(tsd={"dasm": {"steps": 0}})).tsd(batch.z + 0.1, batch, dasm=True).direction
    assert torch.equal(base, none)
    assert relative(maker.tsd(batch.z + 0.1, batch, dasm=True).direction, base) > 1e-4


def test_points_of_weight_zero_are_not_computed(monkeypatch):
    monkeypatch.setattr(tsdsr, "tsd_loss", lambda *given, dasm_steps, **options: dasm_steps)
    batch = RandomData().batch(POSITIONS)
    steps = [method(distill_config(tsd={"dasm": {"weight": w}})).tsd(batch.z, batch, dasm=True) for w in (0.3, 0.0)]
    assert steps == [3, 0]


def test_the_random_offset_is_a_switch():
    batch = RandomData().batch(POSITIONS)
    directions = [
        method(distill_config(tsd={"dasm": {"random_offset": flag}})).tsd(batch.z + 0.1, batch, dasm=True).direction
        for flag in (False, True)
    ]
    assert relative(directions[1], directions[0]) > 1e-6


def test_the_random_offset_is_one_draw_a_batch(monkeypatch):
    """Whichever worker or micro-batch has the sample: position // batch size is the step."""
    seen = []
    monkeypatch.setattr(tsdsr, "tsd_loss", lambda *given, dasm_offset, **options: seen.extend(dasm_offset.tolist()))
    made = method(distill_config(tsd={"dasm": {"random_offset": True}}))  # batches of 4
    for positions in ([2, 3], [4, 5, 6]):
        batch = RandomData().batch(positions)
        made.tsd(batch.z, batch, dasm=True)
    assert seen[0] == seen[1] != seen[2]
    assert seen[2] == seen[3] == seen[4]
    assert all(-25 <= value < 25 for value in seen)


def test_the_fake_score_may_have_a_rank_of_its_own():
    made = method(distill_config(lora={"fake_score_rank": 2}))
    phi = adapters.parameters(made.student.transformer, adapters.FAKE_SCORE)
    ranks = {parameter.shape[0] for name, parameter in phi.items() if "lora_A" in name}
    assert ranks == {2}
    layer = made.student.transformer.transformer_blocks[0].attn.to_q
    assert layer.scaling[adapters.FAKE_SCORE] == layer.scaling[adapters.STUDENT] == 1.0  # alpha / rank is kept


def test_losses_are_weighed_and_reported_unweighed():
    one, output = turn(distill_config(), {"latent_mse": 1.0})
    three, again = turn(distill_config(), {"latent_mse": 3.0})
    assert float(output.terms["latent_mse"]) == float(again.terms["latent_mse"])
    close({n: 3 * g for n, g in gradients(one.student).items()}, gradients(three.student))
    _, output = turn(distill_config(), {"latent_mse": 1.0, "tsd": 0.0})
    assert output.terms.keys() == {"latent_mse"}


def test_a_bfloat16_base_keeps_float32_adapters_and_losses():
    maker, output = turn(distill_config(), {"tsd": 1.0, "latent_mse": 1.0}, dtype=torch.bfloat16)
    assert output.carried["z_hat"].dtype == torch.float32
    assert {value.dtype for value in output.terms.values()} == {torch.float32}
    assert {g.dtype for g in gradients(maker.student).values()} == {torch.float32}


def test_an_unknown_loss_is_named():
    config = distill_config(phases={"early": {"losses": {"lpip": 1.0}}})
    with pytest.raises(UserError, match="lpip"):
        method(config)


def test_a_finetuned_teacher_is_part_of_psi_and_phi():
    maker = method(distill_config())
    adapters.add_adapter(
        maker.student.transformer, adapters.TEACHER, rank=2, alpha=2, targets=adapters.ATTENTION_TARGETS, seed=1
    )
    seen = []
    maker.student.transformer.transformer_blocks[0].attn.to_q.register_forward_pre_hook(
        lambda module, args: seen.append(tuple(module._active_adapter))
    )
    batch = RandomData().batch(POSITIONS)
    student_turn(maker, batch, TSDPhaseConfig(share=1.0, dasm=False, losses={"tsd": 1.0}))
    fake_score_turn(maker, batch, batch.z, 0)
    assert seen == [("student",), ("teacher",), ("teacher", "fake_score"), ("teacher", "fake_score")]
