"""pyiqa's implementations, built offline from verified weights."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tsdsr.errors import UserError
from tsdsr.files import atomic_file
from tsdsr.metrics import separable
from tsdsr.metrics.registry import Metric
from tsdsr.weights import WEIGHTS, find, missing

Score = Callable[[Tensor, Tensor | None], Tensor]


def unavailable(metric: Metric, folders: Sequence[str | Path] = ()) -> str | None:
    """None if everything for `metric` is installed, otherwise the reason."""
    reasons = [reason for name in metric.weights if (reason := missing(name, folders))]
    return "; ".join(reasons) or None


def weight_digests(metric: Metric, folders: Sequence[str | Path] = ()) -> dict[str, str]:
    """name -> sha256 of the files that `metric` loads."""
    found = {name: find(name, folders) for name in metric.weights}
    return {name: item.sha256 for name, item in found.items() if item is not None}


def build(metric: Metric, device: torch.device, folders: Sequence[str | Path] = ()) -> Any:
    """pyiqa's metric, in evaluation mode on `device`.

    Raises:
        UserError: weights are absent or damaged, or pyiqa cannot read them. It never downloads.
    """
    if reason := unavailable(metric, folders):
        raise UserError(f"{metric.name}: {reason}")
    pyiqa = importlib.import_module("pyiqa")
    logging.getLogger("pyiqa").setLevel(logging.WARNING)  # "Network [PSNR] is created"
    separable.install()
    options = dict(metric.options)
    with tempfile.TemporaryDirectory(prefix="tsdsr-weights-") as view, _offline(metric, Path(view), folders):
        if metric.name == "niqe":
            options["pretrained_model_path"] = str(niqe_parameters(Path(view)))
        try:
            return pyiqa.create_metric(metric.backend, device=device, **options)
        except Exception as error:  # loaders of six formats raise many types; one bad file must not stop the others
            raise UserError(f"{metric.name}: pyiqa cannot load its weights: {type(error).__name__}: {error}") from error


def scorer(metric: Metric, device: torch.device, folders: Sequence[str | Path] = ()) -> Score:
    """A function (images, references or None), each (B, 3, H, W) in [0, 1] -> float64 scores (B,) on the CPU.

    An image without a score (NIQE of one without texture has a singular model) gets NaN.
    """
    model = build(metric, device, folders)

    def score(images: Tensor, references: Tensor | None) -> Tensor:
        arguments = (images, references) if metric.needs_reference else (images,)
        try:
            return model(*arguments).detach().reshape(-1).to("cpu", torch.float64)
        except torch.linalg.LinAlgError:
            if len(images) == 1:
                return torch.tensor([torch.nan], dtype=torch.float64)
            halves = (slice(0, len(images) // 2), slice(len(images) // 2, None))
            return torch.cat([score(images[rows], None if references is None else references[rows]) for rows in halves])

    return score


@contextlib.contextmanager
def _offline(metric: Metric, view: Path, folders: Sequence[str | Path]) -> Iterator[None]:
    """Within the block torch.hub's folder is `view`, which links the verified files under pyiqa's names.

    Unpickling is restricted to tensors; pyiqa's messages go to stderr; timm builds MANIQA's backbone without fetching
    ImageNet weights, since MANIQA's published checkpoint contains the backbone.
    """
    for name in metric.weights:
        found = find(name, folders)
        assert found is not None  # checked by `unavailable`
        link = view / WEIGHTS[name].file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(found.path.resolve())
    download = importlib.import_module("pyiqa.utils.download_util")
    timm = importlib.import_module("timm")
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(view))
    try:
        with (
            _replaced(vars(download), "DEFAULT_CACHE_DIR", str(view / "pyiqa")),
            _replaced(vars(timm), "create_model", partial(_without_pretrained, timm.create_model)),
            _replaced(os.environ, "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1"),
            contextlib.redirect_stdout(sys.stderr),
        ):
            yield
    finally:
        torch.hub.set_dir(before)


@contextlib.contextmanager
def _replaced(values: MutableMapping[str, Any], name: str, value: Any) -> Iterator[None]:
    before = values.get(name)
    values[name] = value
    try:
        yield
    finally:
        if before is None:
            del values[name]
        else:
            values[name] = before


def _without_pretrained(create: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return create(*args, **{**options, "pretrained": False})


def niqe_parameters(folder: Path) -> Path:
    """NIQE's pristine model in the form pyiqa reads, from the parameters that basicsr carries: the same numbers as the
    `niqe_modelparameters.mat` of the original release (Mittal et al., IEEE SPL 2013)."""
    scipy_io = importlib.import_module("scipy.io")
    spec = importlib.util.find_spec("basicsr")
    if spec is None or spec.origin is None:
        raise UserError("niqe: the package basicsr, which carries its parameters, is not installed")
    parameters = np.load(Path(spec.origin).parent / "metrics" / "niqe_pris_params.npz", allow_pickle=False)
    path = folder / "niqe_modelparameters.mat"
    with atomic_file(path) as aside:
        scipy_io.savemat(
            aside, {"mu_prisparam": parameters["mu_pris_param"], "cov_prisparam": parameters["cov_pris_param"]}
        )
    return path
