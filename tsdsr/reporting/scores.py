"""The scores on disk, `reports/scores/<method>.{json,csv}` from `tsdsr.metrics.write`, for the report."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsdsr import files, metrics
from tsdsr.errors import UserError
from tsdsr.reporting.table import Cell, Column, Direction, Provenance

DIRECTIONS: Mapping[str, Direction] = {"higher": "up", "lower": "down"}
METRIC_COLUMNS: tuple[Column, ...] = tuple(
    Column(row.name, row.label, DIRECTIONS[row.direction], row.decimals) for row in metrics.select(None)
)
BASELINES: Mapping[str, str] = {
    "bicubic": "Bicubic",
    "round_trip": "Teacher's round trip",
    "restoring_teacher": "Teacher, several steps",
    "real_esrgan": "Real-ESRGAN",
}
LABELS: Mapping[str, str] = {
    "full": "Full",
    "wo_tsm": "w/o TSM",
    "wo_dasm": "w/o DASM",
    "vsd": "VSD alone",
    "tsm_alone": "TSM alone",
    "latent_mse_alone": "Latent MSE alone",
    "residual_velocity": "Velocity residual",
    "perceptual_teacher": "Teacher's features",
    "perceptual_untrained": "Untrained network",
    "tadsr": "TAD-SR",
    "tadsr_wo_hfsd": "TAD-SR w/o HFSD",
    "tadsr_wo_gan": "TAD-SR w/o GAN",
    "tadsr_velocity": "TAD-SR, velocity form",
    "wo_hfsd": "w/o HFSD",
    "wo_gan": "w/o GAN",
    "hfsd_velocity": "HFSD in velocity form",
    "hfsd_all_times": "HFSD at all times",
    "tinysr": "TinySR",
    "tinysr_prune": "TinySR, choice of blocks",
    "tinysr_restore_latents": "TinySR, restoration on latents",
    "tinysr_restore_images": "TinySR, restoration on images",
    "tinysr_encoder": "TinySR, encoder",
    "tinysr_decoder": "TinySR, decoder",
    **BASELINES,
}
OUTPUTS = "outputs"  # provenance key: the folder of images that another method made
# Details that identify the origin of a figure come first.
ORDER = (
    "method",
    "dataset",
    OUTPUTS,
    "run",
    "commit",
    "params",
    "student",
    "weights sha256",
    "protocol",
    "cost",
    "hardware",
)
DETAIL_LABELS = {
    "cost": "cost of a picture",
    "run": "MLflow run",
    "params": "params sha256",
    "student": "student sha256",
}
SEED = "-seed"  # in a run's name, between variant and seed
_SEEDED = re.compile(rf"(?P<variant>.+){SEED}(?P<seed>\d+)")


@dataclass(frozen=True)
class Score:
    """One metric of one method.

    Args:
        mean: over the images; None with a `reason`.
        low, high: its 95 % bootstrap interval, if it has one.
        images: the number of images.
        provenance: the origin of the figure, with the metric's weights and protocol.
    """

    mean: float | None
    low: float | None
    high: float | None
    images: int
    reason: str | None
    provenance: Provenance


@dataclass(frozen=True)
class MethodScores:
    """The content of one pair of files.

    Args:
        method: `full`, `<variant>-seed<n>`, `bicubic`, `round_trip`, or an external's name.
        images: the number of scored images.
        partial: whether an available metric failed on an image.
        departures: the differences from the published test set of that name.
        metrics: by metric name; contains the chosen metrics.
        per_image: metric -> image -> score.
        cost: the known ones of time_s, macs_g, params_m of one image.
    """

    method: str
    dataset: str
    images: int
    partial: bool
    departures: Sequence[str]
    metrics: Mapping[str, Score]
    per_image: Mapping[str, Mapping[str, float]]
    provenance: Provenance
    cost: Mapping[str, float]

    @property
    def variant(self) -> str:
        """The method's name without its seed."""
        match = _SEEDED.fullmatch(self.method)
        return match["variant"] if match else self.method

    @property
    def seed(self) -> int:
        """The seed of a variant's training; -1 if the name has none."""
        match = _SEEDED.fullmatch(self.method)
        return int(match["seed"]) if match else -1

    @property
    def external(self) -> bool:
        """Whether the images were made elsewhere (`evaluate.external`)."""
        return OUTPUTS in dict(self.provenance.details)


def label(variant: str) -> str:
    """The label of a variant or baseline in tables and plots; without one, its name."""
    return LABELS.get(variant, variant.replace("_", " "))


def method_label(method: str) -> str:
    """`w/o TSM, seed 1` for `wo_tsm-seed1`."""
    variant, _, seed = method.partition(SEED)
    return f"{label(variant)}, seed {seed}" if seed else label(variant)


def former(run: str, ablated: Collection[str]) -> bool:
    """Whether `run` is a `<variant>-seed<n>` that the ablation does not name, or not any more.

    It may be from other photographs or another recipe, so it is not comparable with the others.
    """
    return _SEEDED.fullmatch(run) is not None and run not in ablated


def load(folder: Path) -> list[MethodScores]:
    """Every method under `folder`: full first, then variants and externals by name, baselines last.

    Raises:
        UserError: the folder contains no scores, or a file has another content.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise UserError(f"{folder}: no scores (*.json); run the evaluate stage first")
    return sorted((_load(path) for path in paths), key=_order)


def _order(scores: MethodScores) -> tuple[int, str]:
    if scores.variant == "full":
        return (0, scores.method)
    if scores.method in BASELINES:
        return (2, str(list(BASELINES).index(scores.method)))
    return (1, scores.method)


def _load(path: Path) -> MethodScores:
    try:
        values = files.read_json(path)
        run = path.parent.parent / "runs" / path.name  # the provenance, which differs from run to run
        values["provenance"] |= files.read_json(run) if run.is_file() else {}
        return MethodScores(
            method=values["method"],
            dataset=values["dataset"],
            images=values["images"],
            partial=values["partial"],
            departures=tuple(values["departures"]),
            metrics={name: _score(values, entry) for name, entry in values["metrics"].items()},
            per_image=metrics.read_csv(path.with_suffix(".csv")),
            provenance=_provenance(values),
            cost={key: value for key, value in values["provenance"].get("cost", {}).items() if key != "picture"},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        fault = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: not a score file ({fault}); run the evaluate stage again") from None


def _score(values: Mapping[str, Any], entry: Mapping[str, Any]) -> Score:
    provenance = _provenance(values, {"weights sha256": entry["weights"], "protocol": entry["protocol"]})
    return Score(entry["mean"], entry["low"], entry["high"], entry["images"], entry["reason"], provenance)


def _provenance(values: Mapping[str, Any], more: Mapping[str, Any] | None = None) -> Provenance:
    details = {"method": values["method"], "dataset": values["dataset"], **values["provenance"], **(more or {})}
    if values.get("departures"):
        details["not the published test set"] = "; ".join(values["departures"])
    order = [*ORDER, *(key for key in details if key not in ORDER)]
    flat = tuple(
        (DETAIL_LABELS.get(key, key), _text(details[key])) for key in order if details.get(key) not in (None, "", {})
    )
    partial = ", partial" if values["partial"] else ""
    count = metrics.counted(values["images"], values["photographs"])
    return Provenance("measured", f"measured here on {values['dataset']}, {count}{partial}", flat)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    return str(value)


def pooled_cell(column: Column, runs: Sequence[MethodScores], metric: str) -> Cell:
    """The cell of one metric for one variant: its run's mean and interval, or those over several seeds."""
    scored = [(run, score, score.mean) for run in runs if (score := run.metrics.get(metric)) and score.mean is not None]
    if not scored:
        reasons = [run.metrics[metric].reason for run in runs if metric in run.metrics]
        return Cell(reason=next(filter(None, reasons), "not among the scored metrics (evaluate.metrics)"))
    note = _reservations(runs, [score.images for _, score, _ in scored])
    if len(runs) == 1:
        ((_, score, mean),) = scored
        return Cell(mean, column.show(mean), score.low, score.high, note=note, provenance=score.provenance)
    columns = {run.seed: run.per_image.get(metric, {}) for run, _, _ in scored}
    mean, low, high = sum(mean for _, _, mean in scored) / len(scored), None, None
    if all(columns.values()):
        pooled = metrics.mean_over_seeds(columns)
        mean, low, high = pooled.mean, pooled.low, pooled.high
    note = "; ".join(filter(None, (f"mean over {len(scored)} seeds", note)))
    origin = pooled_origin([score.provenance for _, score, _ in scored])
    return Cell(
        mean, column.show(mean), low, high, "95 %, bootstrap over photographs and seeds", note=note, provenance=origin
    )


def difference(ours: Sequence[MethodScores], theirs: Sequence[MethodScores], metric: str) -> metrics.Interval | None:
    """Ours - theirs, paired by image and, if both have it, by seed; None if they have no image in common."""
    left, right = ({run.seed: run.per_image.get(metric, {}) for run in runs} for runs in (ours, theirs))
    try:
        return metrics.paired_over_seeds(left, right)
    except ValueError:
        return None


def _reservations(runs: Sequence[MethodScores], images: Sequence[int]) -> str | None:
    """A note about a figure that is not over all images."""
    texts = list(dict.fromkeys(departure for run in runs for departure in run.departures))
    if any(run.partial for run in runs):
        counts = ", ".join(map(str, dict.fromkeys(images)))
        texts.append(f"partial: over the {counts} images that could be scored")
    return "; ".join(texts) or None


def pooled_origin(origins: Sequence[Provenance]) -> Provenance:
    """The origin of a mean over several seeds, or of a single one."""
    if len(origins) == 1:
        return origins[0]
    details = tuple(
        (f"{key}, {index} of {len(origins)}", value)
        for index, origin in enumerate(origins, start=1)
        for key, value in origin.details
    )
    return Provenance("measured", f"{origins[0].summary}, {len(origins)} seeds", details)


def of_image(run: MethodScores, name: str) -> dict[str, float]:
    """Metric -> score of one image, whether names have a suffix or not."""
    keys = (name, f"{name}.png")
    return {metric: values[key] for metric, values in run.per_image.items() for key in keys if key in values}
