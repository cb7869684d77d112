"""Configurations of the published weights of guided-diffusion, improved-diffusion and DPS, by name.

Their files are state dicts without a description. The flags here are those that their authors publish beside the files,
in the READMEs of openai/guided-diffusion, openai/improved-diffusion and DPS2022/diffusion-posterior-sampling on GitHub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from guided_diffusion import unet_settings
from randomwalk.denoisers.networks import infer_settings
from randomwalk.lookup import find

_ADM: dict[str, Any] = {"attention_resolutions": "32,16,8", "learn_sigma": True, "num_res_blocks": 2}
_ADM |= {"resblock_updown": True, "use_scale_shift_norm": True, "num_head_channels": 64}
_256 = {**_ADM, "image_size": 256, "num_channels": 256}
_SMALL: dict[str, Any] = {"attention_resolutions": "16,8", "learn_sigma": True, "num_res_blocks": 3}
_SMALL |= {"num_channels": 128, "num_heads": 4, "use_scale_shift_norm": True}
_BEDROOM = {**_SMALL, "image_size": 256, "num_res_blocks": 2, "num_heads": 1, "use_scale_shift_norm": False}
_BEDROOM |= {"attention_resolutions": "16"}
_FACES = {**_ADM, "image_size": 256, "num_channels": 128, "num_res_blocks": 1, "attention_resolutions": "16"}
_CLASSES = {"class_cond": True}
_LINEAR = {"name": "vp", "table": "linear"}
_COSINE = {"name": "vp", "table": "cosine"}
_COSINE_4000 = {**_COSINE, "num_timesteps": 4000}
_RESCALED = {**_COSINE_4000, "time_scale": 0.25}

PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "imagenet64": (
        {**_ADM, **_CLASSES, "image_size": 64, "num_channels": 192, "num_res_blocks": 3,
         "use_new_attention_order": True},
        _COSINE,
    ),
    "imagenet128": (
        {**_ADM, **_CLASSES, "image_size": 128, "num_channels": 256, "num_heads": 4, "num_head_channels": -1}, _LINEAR
    ),
    "imagenet256": ({**_256, **_CLASSES}, _LINEAR),
    "imagenet256_uncond": (_256, _LINEAR),
    "imagenet512": ({**_256, **_CLASSES, "image_size": 512}, _LINEAR),
    "lsun_bedroom": (_256, _LINEAR),
    "lsun_cat": (_256, _LINEAR),
    "lsun_horse": (_256, _LINEAR),
    "ffhq_10m": (_FACES, _LINEAR),
    "improved_imagenet64_uncond": ({**_SMALL, "image_size": 64}, _RESCALED),
    "improved_imagenet64_cond": ({**_SMALL, **_CLASSES, "image_size": 64, "num_channels": 192}, _COSINE_4000),
    "improved_cifar10_uncond": ({**_SMALL, "image_size": 32}, _RESCALED),
    "improved_lsun_bedroom": (_BEDROOM, _LINEAR),
}  # fmt: skip
"""Flags of the network, and the denoiser around it. 4000 timesteps are shown to the network of improved-diffusion as
1000, unless its training had ``rescale_timesteps`` off."""


def published(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the network and of the denoiser of published weights.

    Raises:
        InputError: an unknown name.
    """
    flags, denoiser = find("network.published", PUBLISHED, name)
    network = unet_settings(**flags)
    del network["use_fp16"]
    return {"name": "unet", **network}, dict(denoiser)


def alike(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the published weights that have the tensors of a state dict, as far as names and shapes tell.

    Those of several names are used alike.
    """
    told = infer_settings(state)
    if told is None or told["name"] != "unet":
        return []
    found = {}
    for name in PUBLISHED:
        network, denoiser = published(name)
        if all(_plain(network.get(key)) == _plain(value) for key, value in told.items()):
            found[name] = json.dumps([network, denoiser], sort_keys=True)
    return list(found) if len(set(found.values())) == 1 else []


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list | tuple) else value
