"""Module names whose dots were replaced by underscores, read back with a fixed vocabulary, never by guessing.

`down_blocks_0_attentions_1_proj_in` → `down_blocks.0.attentions.1.proj_in`. The words are the submodules of
diffusers' UNets; no word begins with another word and an underscore except `conv_…`, `to_out`, `proj_…` and
the like, where the longest word wins, as no module `conv` has children `in`, `out` or `shortcut`.
"""

from __future__ import annotations

import re
from functools import lru_cache

_WORDS = (
    *("down_blocks", "up_blocks", "mid_block", "attentions", "resnets", "downsamplers", "upsamplers"),
    *("transformer_blocks", "attn1", "attn2", "processor", "to_q", "to_k", "to_v", "to_out"),
    *("ff", "net", "proj", "proj_in", "proj_out", "conv", "conv1", "conv2", "conv_in", "conv_out"),
    *("conv_shortcut", "time_emb_proj", "time_embedding", "add_embedding", "linear_1", "linear_2"),
)
_TOKEN = re.compile(rf"(?:{'|'.join(sorted(map(re.escape, _WORDS), key=len, reverse=True))}|\d+)(?=_|$)")


@lru_cache(maxsize=1 << 14)
def unet_module(text: str) -> str | None:
    """The dotted name, None if any part is no word of the vocabulary.

    diffusers saves attention outputs as `to_out`, the module is the first of the list `to_out.0`: both
    spellings are read.
    """
    parts: list[str] = []
    at = 0
    while True:
        match = _TOKEN.match(text, at)
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
