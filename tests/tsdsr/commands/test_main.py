import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from tsdsr.commands import main as cli
from tsdsr.commands.main import COMMANDS, main


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tsdsr.commands.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'diffusers', 'numpy', 'PIL', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for name, command in COMMANDS.items():
        assert name in result.stdout
        assert command.summary in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_and_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(COMMANDS[name].module)
    assert callable(module.run)
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert f"tsdsr {name}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["upscal"], ["--nonsense"]])
def test_a_wrong_command_is_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("tsdsr ")


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    command = f"{sys.executable} -m tsdsr weights list | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "BrokenPipeError" not in result.stderr


def with_closed(stream: int, run: str) -> subprocess.CompletedProcess[str]:
    """A command that does what `run`, a function's body, says, called without one of the standard streams."""
    code = (
        "import sys\nfrom types import SimpleNamespace\nfrom tsdsr import errors\n"
        f"from tsdsr.commands import main as cli\ndef run(args):\n    {run}\n"
        "module = SimpleNamespace(add_arguments=lambda parser: None, run=run)\n"
        "cli.importlib.import_module = lambda name: module\nsys.exit(cli.main(['weights']))"
    )
    closing = f"import os, sys\nos.close({stream})\nos.execv(sys.executable, [sys.executable, '-c', {code!r}])"
    return subprocess.run([sys.executable, "-c", closing], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_a_closed_stream_is_no_fault_and_no_file_takes_its_number(stream: int) -> None:
    result = with_closed(stream, "return open(sys.executable).fileno()")
    assert result.returncode > 2
    assert "Traceback" not in result.stderr


def test_without_a_stream_for_errors_none_goes_to_the_output() -> None:
    result = with_closed(2, "raise errors.UserError('bad')")
    assert (result.returncode, result.stdout) == (2, "")


@pytest.fixture
def stopped_by(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[signal.Signals], int]]:
    """Run a command that gets the signal, for its exit status; handlers are put back afterwards."""
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}

    def run(number: signal.Signals) -> int:
        def work(args: object) -> int:
            os.kill(os.getpid(), number)
            return 0

        module = SimpleNamespace(add_arguments=lambda parser: None, run=work)
        monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)
        return main(["weights"])

    yield run
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_whoever_ends_a_command_it_ends_in_order(
    number: signal.Signals, stopped_by: Callable[[signal.Signals], int], capsys: pytest.CaptureFixture[str]
) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    assert stopped_by(number) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_below_nohup_a_command_goes_on(stopped_by: Callable[[signal.Signals], int]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert stopped_by(signal.SIGHUP) == 0
