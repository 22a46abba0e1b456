"""The description of each run: the text that MLflow shows above its metrics."""

from __future__ import annotations

from collections.abc import Mapping

from tsdsr.config import Params, flatten


def of_parent(title: str) -> str:
    return f"The runs of one state of the code, or of one sweep, with one set of params ({title}): see its child runs."


def of_child(params: Params, name: str) -> str:
    """Describe a baseline, other methods' images, a trial, a variant of the ablation, or a student.

    Args:
        params: those of the run. name: its name below the parent run.
    """
    variant, _, seed = name.partition("-seed")
    if name in params.evaluate.baselines:
        return f"The baseline {name}, scored on the student's test pairs."
    for entry in params.evaluate.external:
        if name == entry.run_name:
            return f"Images of {entry.name} from {entry.dir}, scored on the data set {entry.dataset}."
    if name.startswith("trial-"):
        keys = tuple(draw.key for draw in params.sweep.space)
        drawn = {key: value for key, value in flatten(params.to_dict()).items() if key.startswith(keys)}
        return f"A trial of sweep {params.sweep.name}: {_listed(drawn)}."
    if seed and variant in params.ablate.variants:
        changes = flatten({"distill": params.ablate.variants[variant]})
        return f"A variant of the ablation: full with {_listed(changes) or 'no change'}, seed {seed}. {_recipe(params)}"
    if name == "start":
        return f"The student from which all variants of the ablation continue. {_recipe(params)}"
    return f"The student {name}. {_recipe(params)}"


def _recipe(params: Params) -> str:
    config = params.distill
    phases = "; ".join(
        f"phase {phase}: " + ", ".join(f"{shown(weight)} {loss}" for loss, weight in settings.losses.items() if weight)
        for phase, settings in config.phases.items()
    )
    return f"Method {config.method}, {config.steps} steps of {config.batch_size} samples. Losses in {phases}."


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {shown(value)}" for key, value in values.items())


def shown(value: object) -> str:
    """A value of params in texts and tables."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
