"""Module names whose dots were replaced by underscores, read back with fixed vocabularies, never by guessing.

`down_blocks_0_attentions_1_proj_in` → `down_blocks.0.attentions.1.proj_in`. The words are the submodules of
diffusers' UNets and of its transformers (Flux, SD 3, …); none begins with another word and an underscore except
`conv_…`, `to_out`, `proj_…` and the like, where the longest word wins, as no module `conv` has children `in`, `out`
or `shortcut`. A text encoder's names (CLIP's) are few enough to be matched whole.
"""

from __future__ import annotations

import re
from functools import lru_cache

_UNET_WORDS = (
    *("down_blocks", "up_blocks", "mid_block", "attentions", "resnets", "downsamplers", "upsamplers"),
    *("transformer_blocks", "attn1", "attn2", "processor", "to_q", "to_k", "to_v", "to_out"),
    *("ff", "net", "proj", "proj_in", "proj_out", "conv", "conv1", "conv2", "conv_in", "conv_out"),
    *("conv_shortcut", "time_emb_proj", "time_embedding", "add_embedding", "linear_1", "linear_2"),
)
_TRANSFORMER_WORDS = (
    *("transformer_blocks", "single_transformer_blocks", "attn", "attn1", "attn2", "to_q", "to_k", "to_v", "to_out"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff", "ff_context", "net", "proj", "proj_mlp"),
    *("proj_out", "norm", "norm1", "norm1_context", "norm_out", "linear", "x_embedder", "context_embedder"),
    *("time_text_embed", "timestep_embedder", "text_embedder", "guidance_embedder", "linear_1", "linear_2"),
)
_TRANSFORMER_ROOTS = frozenset(
    (
        *("transformer_blocks", "single_transformer_blocks", "norm_out", "proj_out"),
        *("x_embedder", "context_embedder", "time_text_embed"),
    )
)


def _tokens(words: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(map(re.escape, words), key=len, reverse=True)
    return re.compile(rf"(?:{'|'.join(longest_first)}|0|[1-9][0-9]*)(?=_|$)")


_UNET = _tokens(_UNET_WORDS)
_TRANSFORMER = _tokens(_TRANSFORMER_WORDS)
_CLIP = re.compile(
    r"(?P<body>text_model_)?encoder_layers_(?P<layer>0|[1-9][0-9]{0,2})_"
    r"(?:self_attn_(?P<projection>[qkv]|out)_proj|mlp_(?P<mlp>fc[12]))"
)


@lru_cache(maxsize=1 << 14)
def unet_module(text: str) -> str | None:
    """The dotted name of a UNet's module, None if any part is no word of the vocabulary.

    diffusers saves attention outputs as `to_out`, the module is the first of the list `to_out.0`: both
    spellings are read.
    """
    return _dotted(text, _UNET)


@lru_cache(maxsize=1 << 14)
def transformer_module(text: str) -> str | None:
    """The dotted name of a diffusers transformer's module, None if it is none."""
    name = _dotted(text, _TRANSFORMER)
    return name if name is not None and name.partition(".")[0] in _TRANSFORMER_ROOTS else None


@lru_cache(maxsize=1 << 12)
def clip_module(text: str) -> str | None:
    """The dotted name of a CLIP text encoder's module, None if it is none."""
    if text == "text_projection":
        return text
    match = _CLIP.fullmatch(text)
    if match is None:
        return None
    inner = f"mlp.{match['mlp']}" if match["mlp"] else f"self_attn.{match['projection']}_proj"
    return f"{'text_model.' if match['body'] else ''}encoder.layers.{match['layer']}.{inner}"


def _dotted(text: str, tokens: re.Pattern[str]) -> str | None:
    parts: list[str] = []
    at = 0
    while True:
        match = tokens.match(text, at)
        if match is None:
            return None
        parts.append(match[0])
        at = match.end()
        if at == len(text):
            break
        at += 1
    if parts[-1] == "to_out":
        parts.append("0")
    return ".".join(parts)
