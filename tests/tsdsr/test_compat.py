from __future__ import annotations

import subprocess
import sys

import pytest

STATEMENTS = {
    "after apply": "from tsdsr import compat; compat.apply(); compat.apply(); "
    "import torchvision.transforms, basicsr.data.degradations; from diffusers import StableDiffusion3Pipeline",
    "after tsdsr.models": "import tsdsr.models, torchvision.transforms",
    "after tsdsr.losses": "import tsdsr.losses, torchvision.transforms",
}


@pytest.mark.parametrize("code", STATEMENTS.values(), ids=STATEMENTS.keys())
def test_third_parties_import(code):
    # In a process of its own: what is tested is what the first import of torchvision finds.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
