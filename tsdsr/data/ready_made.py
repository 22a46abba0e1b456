"""Test sets of ready-made pairs, such as RealSR and DRealSR: two folders of files with equal names."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tsdsr.data.builders import Task
from tsdsr.data.photographs import PhotographRef, find_photographs
from tsdsr.errors import UserError

# The folder names of published test sets.
SIDES = (("hq", "lq"), ("HQ", "LQ"), ("HR", "LR"), ("test_HR", "test_LR"), ("gt", "lq"), ("GT", "LQ"))


def ready_made_tasks(source: str, scale: int) -> list[Task]:
    """The pairs of a folder as tasks of the test split.

    The two sides are matched by their stems. Captions may be in `captions/<stem>.txt`.

    Raises:
        UserError: lists every half without its other half and every pair whose sizes do not differ by `scale`.
    """
    root = Path(source).expanduser()
    hq_folder, lq_folder = _sides(root)
    hq, lq = _by_stem(hq_folder), _by_stem(lq_folder)
    wrong = [f"{hq[stem].name} has no counterpart in {lq_folder.name}/" for stem in sorted(hq.keys() - lq.keys())]
    wrong += [f"{lq[stem].name} has no counterpart in {hq_folder.name}/" for stem in sorted(lq.keys() - hq.keys())]
    wrong += [
        line for stem in sorted(hq.keys() & lq.keys()) if (line := _size_fault(hq[stem].path, lq[stem].path, scale))
    ]
    if wrong:
        raise UserError(f"data.test_source: {len(wrong)} faults in the pairs of {source}: {'; '.join(wrong)}")
    captions = root / "captions"
    return [
        Task(
            PhotographRef(
                id=hq[stem].id,
                path=hq[stem].path,
                name=f"{hq_folder.name}/{hq[stem].name}",
                caption_file=captions / f"{stem}.txt",
            ),
            "test",
            lq=lq[stem].path,
        )
        for stem in sorted(hq)
    ]


def _sides(root: Path) -> tuple[Path, Path]:
    for hq, lq in SIDES:
        if (root / hq).is_dir() and (root / lq).is_dir():
            return root / hq, root / lq
    names = ", ".join(f"{hq}/ and {lq}/" for hq, lq in SIDES)
    raise UserError(f"data.test_source: {root} does not contain two folders of pairs; known names: {names}")


def _by_stem(folder: Path) -> dict[str, PhotographRef]:
    refs: dict[str, PhotographRef] = {}
    for ref in find_photographs(str(folder), key="data.test_source"):
        stem = ref.name.rsplit(".", 1)[0]
        if stem in refs:
            raise UserError(f"data.test_source: {folder} has both {refs[stem].name} and {ref.name}; remove one")
        refs[stem] = ref
    return refs


def _size_fault(hq: Path, lq: Path, scale: int) -> str | None:
    sizes = []
    for path in (hq, lq):
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
        except (OSError, Image.DecompressionBombError) as error:
            return f"{path.parent.name}/{path.name} cannot be read: {error}"
    (hq_width, hq_height), (lq_width, lq_height) = sizes
    if (hq_width, hq_height) == (scale * lq_width, scale * lq_height):
        return None
    return f"{hq.name} is {hq_width}x{hq_height}, its LQ side {lq_width}x{lq_height}: not x{scale}"
