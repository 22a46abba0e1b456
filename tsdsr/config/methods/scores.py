"""The keys of the methods with a fake score."""

from __future__ import annotations

from tsdsr.config.distill import DistillConfig, LoRAConfig, OptimizerConfig
from tsdsr.config.section import Count, LearningRate, NonNegative, Probability, Section, TimeRange


class ScoreLoRAConfig(LoRAConfig):
    fake_score_rank: Count


class GuidanceConfig(Section):
    teacher: NonNegative
    fake_score: NonNegative


class FakeScoreConfig(Section):
    t_range: TimeRange
    updates_per_step: Count
    caption_dropout: Probability


class ScoreOptimizerConfig(OptimizerConfig):
    fake_score_lr: LearningRate


class ScoreDistillationConfig(DistillConfig):
    lora: ScoreLoRAConfig
    guidance_scale: GuidanceConfig
    fp8_scores: bool
    fake_score: FakeScoreConfig
    optimizer: ScoreOptimizerConfig
