"""The model card of an exported student: description, origin, licence and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tsdsr import __version__, files
from tsdsr.errors import UserError
from tsdsr.models.student import read_config

SCORES = Path("reports/scores")
# Per teacher preset: the hub's identifier of the base weights' licence, and a sentence about it.
_BASE_LICENCES = {
    "tiny": ("apache-2.0", "The base was trained from scratch by this project's teacher stage."),
    "tiny-patch1": ("apache-2.0", "The base was trained from scratch by this project's teacher stage."),
    "nano": ("apache-2.0", "The base was trained from scratch by this project's teacher stage."),
    "sd3-medium": (
        "other",
        "The base is Stable Diffusion 3 Medium: its weights, and this model made from them, are under the Stability AI "
        "Community License.",
    ),
}


# By form of `tsdsr export`: a description of the weights, and how to use them.
_FORMS = {
    "pipeline": (
        "Its adapters are merged and its transformer is streamlined for the one timestep and prompt it is used with.",
        """\
from tsdsr.inference import TSDSRPipeline
pipe = TSDSRPipeline.from_pretrained("{name}")
pipe(image, scale={scale}).images[0].save("out.png")""",
    ),
    "onnx": (
        "Its three networks are ONNX graphs with adapters, timestep and prompt merged in and large weights in float16: "
        "z_L = encoder(pixels), z_hat = z_L - transformer(z_L), pixels = decoder(z_hat), from the bicubic enlargement "
        "in [-1, 1].",
        """\
tsdsr upscale photo.jpg --model {name}""",
    ),
    "package": (
        "`teacher/` is the SD3-format base and `student/` holds the adapters, both in float16; `onnx/` is the two "
        "merged, for ONNX Runtime.",
        """\
tsdsr upscale photo.jpg --model {name}""",
    ),
    "diffusers": (
        "Its adapters are merged into plain diffusers networks; the prompt's embeddings lie in `prompt.safetensors`, "
        "the step's numbers in `step.json`: z = z_L - transformer(z_L, timestep, prompt), with z_L the latent of the "
        "bicubic enlargement. The decoder reads z + decoder_noise n, with n from "
        "`numpy.random.default_rng(0).standard_normal((C, h, w), numpy.float32)`.",
        """\
from diffusers import AutoencoderKL, SD3Transformer2DModel
vae = AutoencoderKL.from_pretrained("{name}", subfolder="vae")
transformer = SD3Transformer2DModel.from_pretrained("{name}", subfolder="transformer")""",
    ),
}


def write_card(student: Path, directory: Path, name: str, form: str = "package") -> None:
    """Write `README.md` into an exported model's directory.

    Args:
        student: the exported student's directory; its scores are read from `reports/scores`.
        directory: the export.
        name: the model's name.
        form: a key of `_FORMS`.

    Raises:
        UserError: `student` is not a student directory.
    """
    config = read_config(student)
    files.write_text(directory / "README.md", card(config, _scores(student.name), name, form))


def card(config: dict[str, Any], scores: dict[str, Any] | None, name: str, form: str = "package") -> str:
    """The card's text.

    Args:
        config: of `student.json`.
        scores: the summary that scoring wrote, or None.
        name: of the model.
        form: a key of `_FORMS`.
    """
    named = config.get("teacher")
    teacher = named if isinstance(named, dict) else {}
    licence, terms = _BASE_LICENCES.get(teacher.get("preset", ""), ("other", "The base weights' own licence applies."))
    source = teacher.get("source")
    head = ["---", "library_name: diffusers", "pipeline_tag: image-to-image", f"license: {licence}"]
    head += [f"base_model: {source}"] if source else []
    head += ["tags:", "- super-resolution", "- one-step-diffusion", "- tsd-sr", "---"]
    scale = config["scale"]
    what, code = _FORMS[form]
    return "\n".join(
        [
            *head,
            f"# {name}",
            "",
            f"A one-step diffusion upscaler (x{scale}), distilled with target score distillation (TSD-SR, "
            f"arXiv 2411.18263) by tsdsr {__version__}. {what}",
            "",
            f"```{'bash' if code.startswith('tsdsr') else 'python'}",
            code.format(name=name, scale=scale),
            "```",
            "",
            "## Licences",
            "",
            "- Code (the package `tsdsr`): Apache-2.0.",
            f"- Weights: {terms}",
            "",
            "## Scores",
            "",
            *_table(scores),
            "",
        ]
    )


def _table(scores: dict[str, Any] | None) -> list[str]:
    measured = {key: row for key, row in (scores or {}).get("metrics", {}).items() if row.get("mean") is not None}
    if scores is None or not measured:
        return ["None were measured."]
    lines = [f"Means over {scores['images']} images of the set `{scores['dataset']}`.", ""]
    lines += ["| metric | mean |", "|---|---|"]
    for row in measured.values():
        lines.append(f"| {row['label']} ({row['direction']} is better) | {row['mean']:.{row['decimals']}f} |")
    return lines


def _scores(method: str) -> dict[str, Any] | None:
    path = SCORES / f"{method}.json"
    if not path.is_file():
        return None
    try:
        summary: dict[str, Any] = files.read_json(path)
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    return summary
