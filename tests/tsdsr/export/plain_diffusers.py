"""A student's one step with diffusers, peft and safetensors alone; run as a script by `test_plain.py`.

python plain_diffusers.py TEACHER STUDENT MERGED IMAGE.safetensors OUT.safetensors
"""

import sys

import torch
from safetensors.torch import load_file, save_file

try:
    import torchvision
except RuntimeError:  # a torchvision built for another torch: declare the operators that its import looks up
    operators = torch.library.Library("torchvision", "DEF")
    operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    import torchvision  # noqa: F401

from diffusers import AutoencoderKL, SD3Transformer2DModel


@torch.no_grad()
def restore(vae, transformer, prompt, image):
    z = vae.encode(image).latent_dist.mode() * vae.config.scaling_factor
    v = transformer(
        hidden_states=z,
        timestep=torch.full((len(z),), 1000.0),
        encoder_hidden_states=prompt["prompt_embeds"].expand(len(z), -1, -1),
        pooled_projections=prompt["pooled_embeds"].expand(len(z), -1),
    ).sample
    return vae.decode((z - v) / vae.config.scaling_factor).sample


def networks(directory):
    vae = AutoencoderKL.from_pretrained(directory, subfolder="vae")
    return vae, SD3Transformer2DModel.from_pretrained(directory, subfolder="transformer")


teacher, student, merged, image, out = sys.argv[1:]
picture, prompt = load_file(image)["image"], load_file(f"{merged}/prompt.safetensors")
found = {"merged": restore(*networks(merged), prompt, picture)}
vae, transformer = networks(teacher)
found["base"] = restore(vae, transformer, prompt, picture)
for network, name in ((vae, "vae"), (transformer, "transformer")):
    network.load_lora_adapter(load_file(f"{student}/{name}.safetensors"), prefix="transformer", adapter_name="student")
found["adapters"] = restore(vae, transformer, prompt, picture)
assert not any(name.split(".")[0] == "tsdsr" for name in sys.modules)
save_file(found, out)
