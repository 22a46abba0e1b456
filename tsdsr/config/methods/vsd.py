"""`distill.method: vsd` - variational score distillation, as OSEDiff regularises its student."""

from __future__ import annotations

from typing import Literal

from tsdsr.config.distill import DistillConfig, GuidanceConfig, ScoreLoRAConfig
from tsdsr.config.methods.tsdsr import FakeScoreConfig, ScoreOptimizerConfig
from tsdsr.config.section import Section, TimeRange


class VSDSection(Section):
    t_range: TimeRange


class VSDConfig(DistillConfig):
    method: Literal["vsd"]
    lora: ScoreLoRAConfig
    guidance_scale: GuidanceConfig
    vsd: VSDSection
    fake_score: FakeScoreConfig
    optimizer: ScoreOptimizerConfig
