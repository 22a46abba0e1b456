from pathlib import Path

import pytest

from tsdsr.commands.jobs import plan_jobs
from tsdsr.errors import UserError
from tsdsr.pictures.formats import FORMATS

SUFFIXES = {name: row.suffixes for name, row in FORMATS.items()}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.jpg", "in/deep/er/b.PNG", "in/deep/c.bmp", "in/notes.txt", "one.jpg", "two.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def plan(*inputs: str, output: str, form: str | None = None) -> dict[str, tuple[str, str | None]]:
    jobs = plan_jobs(list(inputs), output, form, SUFFIXES)
    return {job.source.as_posix(): (job.target.as_posix(), job.form) for job in jobs}


def test_a_file_to_a_file(tree: Path) -> None:
    assert plan("one.jpg", output="new.png") == {"one.jpg": ("new.png", "png")}
    assert plan("one.jpg", output="new.png", form="webp") == {"one.jpg": ("new.png", "webp")}


def test_a_folder_keeps_its_tree(tree: Path) -> None:
    assert plan("in", output="out") == {
        "in/a.jpg": ("out/a.jpg", "jpeg"),
        "in/deep/er/b.PNG": ("out/deep/er/b.PNG", "png"),
        "in/deep/c.bmp": ("out/deep/c.png", "png"),
    }


def test_earlier_results_below_an_input_folder_are_no_inputs(tree: Path) -> None:
    first = plan("in", output="in/deep/large")
    (tree / "in/deep/large").mkdir()
    (tree / "in/deep/large/a.jpg").touch()
    assert plan("in", output="in/deep/large") == first
    assert list(plan("in/deep/large", output="out")) == ["in/deep/large/a.jpg"]


def test_a_folder_is_walked_through_links_and_without_what_is_hidden(tree: Path, caplog) -> None:
    (tree / "elsewhere").mkdir()
    for name in ("elsewhere/d.png", "in/._a.jpg", "in/.cache/e.png", "in/phone.heic", "in/paper.pdf"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).touch()
    (tree / "in/linked").symlink_to(tree / "elsewhere")
    (tree / "in/deep/circle").symlink_to(tree / "in")
    (tree / "in/nowhere.png").symlink_to("nothing.png")
    with caplog.at_level("INFO"):
        found = plan("in", output="out")
    assert sorted(found) == [
        *("in/a.jpg", "in/deep/c.bmp", "in/deep/er/b.PNG", "in/linked/d.png", "in/nowhere.png", "in/phone.heic")
    ]
    assert caplog.messages == ["in: skipped, by their names: 1 .pdf, 1 .txt"]


def test_files_and_globs_to_a_folder(tree: Path) -> None:
    assert plan("*.jpg", "two.png", output="out", form="webp") == {
        "one.jpg": ("out/one.webp", "webp"),
        "two.png": ("out/two.webp", "webp"),
    }
    assert len(plan("in/**/*.*", output="out")) == 4  # what a glob names is tried, whatever it is


def test_a_folder_may_have_a_dot(tree: Path) -> None:
    for output in ("new.2024", "new.bmp/"):
        assert plan("one.jpg", output=output) == {"one.jpg": (f"{output.rstrip('/')}/one.jpg", "jpeg")}


def test_two_inputs_never_share_an_output(tree: Path, caplog) -> None:
    for name in ("a.bmp", "a.png", "a.gif", "deep/a.png"):
        (tree / "many" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "many" / name).touch()
    found = plan("many", "many/deep/a.png", "many/../many/a.bmp", output="out")
    assert {source: target for source, (target, _) in found.items()} == {
        "many/../many/a.bmp": "out/a.bmp.png",
        "many/a.gif": "out/a.gif.png",
        "many/a.png": "out/a.png",
        "many/deep/a.png": "out/a-2.png",
    }
    assert "many/a.gif goes to out/a.gif.png: another input is written to out/a.png" in caplog.messages
    assert len(caplog.messages) == 3


def test_without_an_output_results_lie_beside_their_inputs(tree: Path) -> None:
    jobs = plan_jobs(["one.jpg", "*.png", "in", "-"], None, None, SUFFIXES)
    found = {job.source.as_posix(): job.target for job in jobs}
    assert found == {
        "one.jpg": Path("one-upscaled.jpg"),
        "two.png": Path("two-upscaled.png"),
        "in/a.jpg": tree / "in-upscaled/a.jpg",
        "in/deep/er/b.PNG": tree / "in-upscaled/deep/er/b.PNG",
        "in/deep/c.bmp": tree / "in-upscaled/deep/c.png",
        "-": Path("-"),
    }
    assert [job.target.name for job in plan_jobs(["one.jpg"], None, "webp", SUFFIXES)] == ["one-upscaled.webp"]


def test_streams(tree: Path) -> None:
    assert plan("-", output="-", form="png") == {"-": ("-", "png")}
    assert plan("-", output="new.jpg") == {"-": ("new.jpg", "jpeg")}


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["nothing.png"], "out", "no such file"),
        (["*.webp"], "out", "matches no file"),
        (["empty"], "out", "no pictures"),
        (["one.jpg", "two.png"], "new.png", "several inputs"),
        (["in"], "new.png", "several inputs"),
        (["one.jpg"], "folder.png", "is a folder"),
        (["one.jpg"], "new.bmp", "files that are written end in"),
        (["one.jpg", "two.png"], "in/notes.txt", "is a file"),
        (["one.jpg", "two.png"], "-", "one stream"),
        (["one.jpg"], "one.jpg", "one of the inputs"),
        (["in"], "in", "one of the inputs"),
        (["other", "in/deep"], "in", "in/deep/c.png: is one of the inputs"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(tree: Path, inputs: list[str], output: str, message: str) -> None:
    (tree / "empty").mkdir()
    (tree / "folder.png").mkdir()
    (tree / "other/deep").mkdir(parents=True)
    for name in ("other/deep/c.png", "in/deep/c.png"):
        (tree / name).touch()
    (tree / "in/deep/c.bmp").unlink()
    with pytest.raises(UserError, match=message):
        plan_jobs(inputs, output, None, SUFFIXES)
