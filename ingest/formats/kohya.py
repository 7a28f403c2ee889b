"""kohya's files (sd-scripts, and OneTrainer's): `lora_unet_…`, `lora_te…`, `.lora_down.weight`, `.alpha`.

The dots of a module's name are underscores, so it is read back with the vocabulary of its component (see
`ingest.formats.underscored`): `lora_unet_` is the UNet, `lora_te_` and `lora_te1_` the (first) text encoder,
`lora_te2_` the second, `lora_transformer_` a diffusers transformer. SDXL's UNet is trained in its original
implementation, whose names (`input_blocks_4_1_…`) have a place in diffusers' UNet only by its configuration;
without it they are refused, since diffusers itself then maps them to wrong blocks.

down is A, up is B; the scale is alpha / rank, and 1 without an alpha (sd-scripts: alpha is then the rank).

Refused: a Tucker core (`lora_mid`), DoRA, and the names of Flux, SD 3, HunyuanVideo and the like under `lora_unet_`.
Of those one underscored name stands for different modules (`double_blocks_0_img_attn_qkv` is `img_attn.qkv` in Flux,
`img_attn_qkv` in HunyuanVideo), and their fused projections are no modules of diffusers' transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from ingest.errors import Refusal
from ingest.formats import foreign
from ingest.formats.adapter import LoraAdapter
from ingest.formats.alphas import read_alphas
from ingest.formats.opened import Opened
from ingest.formats.pairing import Factor
from ingest.formats.sgm import is_outer, is_sgm, sgm_module
from ingest.formats.sorting import Split, refuse_config, refuse_zero, scaled, sort
from ingest.formats.underscored import clip_module, transformer_module, unet_module
from ingest.formats.unet import UnetConfig, read_unet_config
from ingest.names import diffusers_module
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef

NAME = "kohya"

_KEY = re.compile(
    r"lora_(?!unet_unet_)(?P<part>unet|te[12]?|transformer)_(?P<module>[^.]+)\."
    r"(?:lora_(?P<way>down|up)\.weight|alpha)"
)
_OTHER_PARTS = re.compile(r"lora_(?:te[3-9]|prior_unet|prior_te|llama|gemma)_[^.]+\.lora_(?:down|up)\.weight")
_BIG_TRANSFORMER = re.compile(r"lora_unet_(?:double_blocks|single_blocks|joint_blocks|blocks|layers|double_stream)_")
_SGM = "sgm:"
"""In front of the underscored names that wait for the UNet's configuration."""


def _named(part: str, text: str) -> str | None:
    """The dotted name with the component in front; SGM names stay underscored behind `_SGM`."""
    if part == "unet":
        if is_sgm(text):
            return f"unet.{sgm_module(text, 0)}" if is_outer(text) else _SGM + text
        module = unet_module(text)
        return None if module is None else diffusers_module(module)
    if part == "transformer":
        module = transformer_module(text)
        return None if module is None else f"transformer.{module}"
    module = clip_module(text)
    return None if module is None else f"text_encoder{'_2' if part == 'te2' else ''}.{module}"


@lru_cache(maxsize=1 << 14)
def _split(key: str) -> Split | None:
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    module = _named(match["part"], match["module"])
    role = {"down": "A", "up": "B", None: "alpha"}[match["way"]]
    return None if module is None else Split(module, role)


@lru_cache(maxsize=1 << 14)
def _is_factor(key: str) -> bool:
    return not key.endswith(".alpha") and (_KEY.fullmatch(key) is not None or _OTHER_PARTS.fullmatch(key) is not None)


def _is_extra(key: str) -> bool:
    # Textual inversions that a file brings along.
    return key.startswith("bundle_emb.") or not foreign.looks_like_lora(key)


def claims(keys: Iterable[str], has_config: bool) -> bool:
    """Whether any key is a factor as kohya names it, of whatever model."""
    del has_config
    return any(map(_is_factor, keys))


def parse(opened: Opened) -> LoraAdapter:
    """Read one kohya file; see `ingest.formats.parse` for what it raises."""
    refuse_config(opened, "kohya's")
    _refuse_two_namings(opened)
    found = sort(opened, _split, _is_extra, _stranger)
    alphas = read_alphas(opened, found.alphas)
    refuse_zero(found, alphas, "sd-scripts")
    factors, alphas = _placed(opened, found.factors, alphas)
    return opened.adapter(NAME, scaled(factors, alphas, opened.options.renames), found.extras)


def _refuse_two_namings(opened: Opened) -> None:
    """`lora_te_` is a model's one text encoder, `lora_te1_` the first of another's two: no file has both."""
    keys = opened.header.tensors
    one, two = (next((key for key in keys if key.startswith(part)), None) for part in ("lora_te_", "lora_te1_"))
    if one is not None and two is not None:
        raise Refusal(Reason.UNKNOWN_KEYS, f"{opened.where} has {one!r} beside {two!r}: the first text encoder twice")


def _placed(
    opened: Opened, factors: tuple[Factor, ...], alphas: tuple[tuple[str, float], ...]
) -> tuple[tuple[Factor, ...], tuple[tuple[str, float], ...]]:
    """SGM names replaced by diffusers', each held against the UNet's configuration."""
    sgm = {factor.module: factor for factor in factors if factor.module.startswith(_SGM)}
    if not sgm:
        return factors, alphas
    example = next(iter(sgm.values())).tensor.key
    if opened.options.unet_config is None:
        raise Refusal(
            Reason.UNKNOWN_KEYS,
            f"{opened.where} has {example!r}: where the original implementation's blocks are in diffusers' UNet is "
            "in that UNet's config.json; give it with --unet-config",
        )
    other = next((f.tensor.key for f in factors if _in_blocks(f.module)), None)
    if other is not None:
        raise Refusal(
            Reason.UNKNOWN_KEYS,
            f"{opened.where} has {example!r} beside {other!r}: the blocks of one UNet under two namings",
        )
    config = read_unet_config(opened.options.unet_config)
    names = {name: _place(name.removeprefix(_SGM), config, factor) for name, factor in sgm.items()}
    placed = tuple(
        Factor(names[f.module], f.side, f.embedding, _fits(f, names[f.module], config)) if f.module in names else f
        for f in factors
    )
    return placed, tuple((names.get(module, module), alpha) for module, alpha in alphas)


def _in_blocks(module: str) -> bool:
    return module.startswith(("unet.down_blocks.", "unet.up_blocks.", "unet.mid_block."))


def _place(text: str, config: UnetConfig, factor: Factor) -> str:
    module = sgm_module(text, config.layers_per_block)
    if module is None or config.widths(module) is None:
        raise Refusal(
            Reason.UNKNOWN_KEYS,
            f"{factor.tensor.key!r} has no place in the UNet of --unet-config"
            f"{f' (it would be {module!r})' if module else ''}; give the config.json of the UNet it was trained on",
        )
    return f"unet.{module}"


def _fits(factor: Factor, name: str, config: UnetConfig) -> TensorRef:
    widths = config.widths(name.removeprefix("unet."))
    shape = factor.tensor.shape
    axis = 1 if factor.side == "A" else 0
    wanted = widths[axis != 1] if widths is not None else None
    if wanted is not None and (len(shape) < 2 or shape[axis] != wanted):
        raise Refusal(
            Reason.UNKNOWN_KEYS,
            f"{factor.tensor.key!r} is {' × '.join(map(str, shape))}, but {name!r} is {wanted} wide there by "
            "--unet-config; give the config.json of the UNet it was trained on",
        )
    return factor.tensor


def _stranger(key: str, where: str) -> Refusal:
    if _BIG_TRANSFORMER.match(key):
        return Refusal(
            Reason.UNKNOWN_KEYS,
            f"{where} has {key!r}: underscored names of a transformer (Flux, SD 3, HunyuanVideo, …) stand for "
            "different modules in different models, some of them fused; convert it with diffusers",
        )
    match = _KEY.fullmatch(key)
    if match is not None or _OTHER_PARTS.fullmatch(key) is not None:
        return Refusal(
            Reason.UNKNOWN_KEYS,
            f"{where} has {key!r}, which is no module of Stable Diffusion's UNet, diffusers' transformers or CLIP",
        )
    return foreign.stranger(key, where)
