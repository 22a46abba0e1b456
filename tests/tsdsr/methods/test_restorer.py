"""The training of a restoring teacher: where its crops sit in the table of positions."""

import torch

from tests.tiny import random_prompt, tiny_transformer, tiny_vae
from tests.tsdsr.training.rig import RandomData
from tsdsr.flow import FlowSchedule
from tsdsr.methods.restorer import RestorerTraining, RestorerTurn
from tsdsr.models import restoring
from tsdsr.models.codec import LatentCodec
from tsdsr.models.restoring import RestoringTeacher


def test_crops_move_through_the_table_of_positions():
    """A picture larger than the crops has positions that are never trained otherwise."""
    transformer = tiny_transformer(sample_size=16)
    restoring.attach(transformer, rank=2, seed=0, trainable=True)
    teacher = RestoringTeacher(transformer, random_prompt(0))
    turn = RestorerTurn(teacher, LatentCodec(tiny_vae(), False), FlowSchedule(3.0), [], scale=4, seed=0)
    training, batch = RestorerTraining(turn), RandomData().batch([0, 1])  # latents of 8
    table, places = transformer.pos_embed.pos_embed, set()
    for step in range(20):
        with training.around(step, batch):
            places.add(
                float((transformer.pos_embed.pos_embed * torch.arange(table.numel()).reshape(table.shape)).sum())
            )
        assert transformer.pos_embed.pos_embed is table
    assert len(places) > 10
