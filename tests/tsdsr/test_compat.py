from __future__ import annotations

import subprocess
import sys

import pytest

STATEMENTS = {
    "after apply": "from tsdsr import compat; compat.apply(); compat.apply(); "
    "import torchvision.transforms, basicsr.data.degradations; from diffusers import StableDiffusion3Pipeline",
    "after tsdsr.models": "import tsdsr.models, torchvision.transforms",
    "without bitsandbytes and what it imports": "import tsdsr.models.adapters, sys; "
    "assert not sys.modules['bitsandbytes'] and 'torch._inductor.compile_fx' not in sys.modules; import pyiqa",
    "after tsdsr.losses": "import tsdsr.losses, torchvision.transforms",
    "the old name is the new module": "from tsdsr import compat; compat.apply(); import sys; "
    "assert 'torchvision' not in sys.modules; import torchvision.transforms.functional_tensor as old; "
    "import torchvision.transforms._functional_tensor as new; assert old is new",
    "after lean imports": "from tsdsr import compat; import atexit, gc, os, sys\n"
    "atexit.register(lambda: os._exit(gc.get_freeze_count() == 0))  # the last one\n"
    "with compat.lean_imports(): from diffusers import AutoencoderKL, SD3Transformer2DModel\n"
    "assert not any(name in sys.modules for name in compat.UNUSED + compat.COMPILER)\n"
    "assert gc.isenabled() and not gc.get_freeze_count()\n"
    "import scipy.optimize, torchvision.transforms, torch\n"
    "torch.compile(torch.sin, backend='eager')(torch.ones(1)); assert 'torch._dynamo' in sys.modules",
}


@pytest.mark.parametrize("code", STATEMENTS.values(), ids=STATEMENTS.keys())
def test_third_parties_import(code):
    # In a process of its own: what is tested is what the first import of torchvision finds.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
