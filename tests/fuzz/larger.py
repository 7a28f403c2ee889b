"""More than there was: further tensors with their data, crowds of modules and of patterns."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from tests.fuzz.corpus import many
from tests.fuzz.edits import Mutation, on_weights


def larger() -> st.SearchStrategy[Mutation]:
    """One more tensor, announced as it should be, with its data."""

    def more(key: str, shape: tuple[int, ...]) -> Mutation:
        def change(raw: bytes) -> bytes:
            try:
                length = int.from_bytes(raw[:8], "little")
                header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
                size = 4 * shape[0] * shape[1]
                entry = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + size]}
                text = json.dumps({**header, key: entry}).encode()
            except (ValueError, TypeError, RecursionError):
                return raw
            return len(text).to_bytes(8, "little") + text + data + b"\x3c" * size

        return on_weights(f"{key} of {shape}", change)

    kohya = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    peft = "base_model.model.layers.0.q"
    keys = [f"{peft}.lora_A.weight", f"{peft}.base_layer.weight", "layers.7.weight"]
    keys += [f"{kohya}.{part}" for part in ("lokr_w1_a", "lokr_w1_b", "lokr_w2", "hada_w1_a", "lora_down.weight")]
    shapes = [(1, 1), (20_000, 1), (1, 20_000), (60, 60), (320, 4), (4, 200_000), (1000, 1000)]
    return st.builds(more, st.sampled_from(keys), st.sampled_from(shapes))


def crowds() -> st.SearchStrategy[Mutation]:
    """Many modules, many patterns, long names, patterns with several repeats: in place of whatever was there."""

    def crowd(count: int, name: str, pattern: str, patterns: int) -> Mutation:
        chosen = {pattern.format(i): 1 for i in range(patterns)}
        return Mutation(
            f"{count} modules {name[:20]!r}, {patterns} patterns {pattern!r}", lambda _: many(count, name, chosen)
        )

    return st.builds(
        crowd,
        st.sampled_from([1, 40, 120]),
        st.sampled_from(["l.", "a." * 120, "a" * 200, "model.layers."]),
        st.sampled_from(["m{}", "^l.{}", ".*.*x{}", ".*.*.*x{}", "(a|a|.)*x{}", "((a)|(a))((a)|(a)).*x{}", "[a.]+x{}"]),
        st.sampled_from([1, 60, 1_000, 4_000]),
    )
