"""`distill.method: vsd` - variational score distillation, as OSEDiff regularises its student."""

from __future__ import annotations

from typing import Literal

from tsdsr.config.methods.scores import ScoreDistillationConfig
from tsdsr.config.section import Section, TimeRange


class VSDSection(Section):
    t_range: TimeRange


class VSDConfig(ScoreDistillationConfig):
    method: Literal["vsd"]
    vsd: VSDSection
