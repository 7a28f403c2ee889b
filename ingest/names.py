"""Canonical layer names: the one rule by which the same layer of the same base model gets the same name.

Adapters of one base model spell its layers differently: trained under a task head
(`roberta.encoder.layer.0…`) or without (`encoder.layer.0…`), wrapped by peft, DataParallel, `torch.compile`
or FSDP, saved by one diffusers release or another. The rule, over all module names of a file at once:

1. **Wrappers** go: leading `base_model.model.` (and a trainer's `model.` before it), `module.`, `_forward_module.`
   and `state_dict.`, repeated as often as they occur, and the components `_orig_mod`, `_fsdp_wrapped_module`,
   `_checkpoint_wrapped_module` and `base_layer` anywhere.
2. **Dialect transformers** (peft folders): one leading component goes if transformers uses it for the body
   of a model with a head (`TASK_PREFIXES`): `model.layers.0…` → `layers.0…`, `transformer.h.0…` → `h.0…`. At
   most one, and never if a single component would remain (`model.lm_head` stays). The modules of a diffusers UNet
   (`UNET_ROOTS`: `down_blocks.…`), saved as a peft folder, get the name that a pipeline file gives them: `unet.…`.
   **Dialect diffusers** (pipeline files): the first component names a part of the pipeline and is kept
   (`unet.…`, `text_encoder.…`, `transformer.…`), since one file holds several parts. So `transformer` is a
   head's prefix in the first dialect (gpt2) and a component in the second (Flux, SD 3). A text encoder's
   `text_model.`, which newer transformers lack, goes.
3. **Collisions**: if two modules of a file would get one name, both keep the longer name of the step before,
   until all names of the file differ.
4. **Renames** asked for by the user, on the names so found: OLD=NEW replaces leading components; the first
   rename that fits is applied, once.

Spellings of a projection (`to_q_lora`, `attn1.processor`) are undone before, by `diffusers_module`; adapter
names inside keys (`lora_A.default.weight`) belong to the factor, not to the module, and never get here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ingest.errors import EigenzooError, Refusal
from ingest.prefixes import COMPONENTS, TASK_PREFIXES, UNET_ROOTS
from ingest.reasons import Reason

Dialect = Literal["transformers", "diffusers"]

_LEADING_WRAPPERS = ("base_model.model.", "model.base_model.model.", "module.", "_forward_module.", "state_dict.")
# Longer lists are not remembered: a stranger's files must not fill the memory.
_SHARED_NAMES = 4096
_INFIX_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"))
_UNET_PROJECTIONS = {"to_q_lora": "to_q", "to_k_lora": "to_k", "to_v_lora": "to_v", "to_out_lora": "to_out.0"}
_TEXT_PROJECTIONS = {
    "to_q_lora": "q_proj",
    "to_k_lora": "k_proj",
    "to_v_lora": "v_proj",
    "to_out_lora": "out_proj",
}


@dataclass(frozen=True, slots=True)
class Rename:
    """Leading components `old` become `new`; an empty `new` removes them."""

    old: str
    new: str

    @classmethod
    def parse(cls, text: str) -> Rename:
        """Read "OLD=NEW", both dotted names, NEW possibly empty.

        Raises
        ------
        EigenzooError
            Without exactly one "=", without OLD, or if a side has empty components.
        """
        old, equals, new = text.partition("=")
        old, new = old.strip(), new.strip()
        if not equals or "=" in new or not old:
            raise EigenzooError(f"a rename is OLD=NEW, got {text!r}; write for example language_model.layers=layers")
        for side in (old, new):
            if side and not all(side.split(".")):
                raise EigenzooError(
                    f"a rename replaces whole dotted components, got {side!r} in {text!r}; drop its dots"
                )
        return cls(old, new)


def canonical(
    names: Iterable[str], renames: Iterable[Rename] = (), dialect: Dialect = "transformers"
) -> dict[str, str]:
    """Canonical names of all modules of one file.

    Parameters
    ----------
    names
        The file's distinct module names, without the factor's suffix; for the diffusers dialect as
        `diffusers_module` spells them.
    renames
        The user's renames.
    dialect
        "transformers" or "diffusers"; see the module's rule 2.

    Returns
    -------
    dict
        Name as in the file → canonical name; values are distinct. O(length of names), cached per list of
        names.

    Raises
    ------
    Refusal
        `unknown-keys` if a rename gives two modules of this file one name.
    """
    modules = tuple(names)
    function = _canonical if len(modules) <= _SHARED_NAMES else _canonical.__wrapped__
    return dict(function(modules, tuple(renames), dialect))


@lru_cache(maxsize=64)
def _canonical(names: tuple[str, ...], renames: tuple[Rename, ...], dialect: Dialect) -> dict[str, str]:
    ladders = {name: _ladder(name, dialect) for name in names}
    step = dict.fromkeys(ladders, 0)
    while True:
        current = {name: ladders[name][step[name]] for name in ladders}
        taken = Counter(current.values())
        # The last rung is the file's own name, so names that cannot move further differ already and the loop
        # ends.
        crowded = [name for name in ladders if taken[current[name]] > 1 and step[name] + 1 < len(ladders[name])]
        if not crowded:
            break
        for name in crowded:
            step[name] += 1
    if renames:
        current = {name: _renamed(layer, renames) for name, layer in current.items()}
        taken = Counter(current.values())
        double = next((layer for layer, count in taken.items() if count > 1), None)
        if double is not None:
            both = sorted(name for name, layer in current.items() if layer == double)
            raise Refusal(
                Reason.UNKNOWN_KEYS,
                f"the renames give {both[0]!r} and {both[1]!r} the same name {double!r}; rename them apart",
            )
    return current


@lru_cache(maxsize=1 << 14)
def _ladder(name: str, dialect: Dialect) -> tuple[str, ...]:
    """The names a module may get, shortest first; the last is the name in the file."""
    rungs = [name]
    plain = _unwrapped(name)
    rungs.append(plain)
    first, _, rest = plain.partition(".")
    if dialect == "transformers":
        if first in TASK_PREFIXES and "." in rest:
            rungs.append(rest)
        elif first in UNET_ROOTS:
            rungs.append(f"unet.{plain}")
    elif first.startswith("text_encoder") and rest.startswith("text_model."):
        rungs.append(f"{first}.{rest.removeprefix('text_model.')}")
    return tuple(dict.fromkeys(reversed(rungs)))


def _unwrapped(name: str) -> str:
    parts = [part for part in name.split(".") if part not in _INFIX_WRAPPERS]
    plain = ".".join(parts) or name
    while True:
        for wrapper in _LEADING_WRAPPERS:
            if plain.startswith(wrapper) and len(plain) > len(wrapper):
                plain = plain.removeprefix(wrapper)
                break
        else:
            return plain


def _renamed(layer: str, renames: tuple[Rename, ...]) -> str:
    for rename in renames:
        if layer == rename.old and rename.new:
            return rename.new
        if layer.startswith(f"{rename.old}."):
            rest = layer[len(rename.old) + 1 :]
            return f"{rename.new}.{rest}" if rename.new else rest
    return layer


@lru_cache(maxsize=1 << 14)
def diffusers_module(name: str) -> str | None:
    """Undo the spellings of diffusers' releases in one module name.

    `down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora` (before 0.17: no
    component, attention processors) →
    `unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0`; in a text encoder
    `self_attn.to_q_lora` → `self_attn.q_proj`. These are the renamings of diffusers'
    `convert_unet_state_dict_to_peft` and `convert_state_dict_to_peft`.

    Returns
    -------
    str or None
        The module's name with its pipeline component in front, None if no component is known to hold it.
    """
    name = ".".join(part for part in name.split(".") if part != "processor")
    first = name.partition(".")[0]
    if first in UNET_ROOTS:
        name, first = f"unet.{name}", "unet"
    elif first not in COMPONENTS or "." not in name or name.startswith("transformer.h."):
        # The last is gpt2 or one of its kin saved without peft's prefix, no pipeline's transformer.
        return None
    head, _, last = name.rpartition(".")
    if not last.endswith("_lora"):
        return name
    if first.startswith("text_encoder"):
        # A release saved `k_proj.to_k_lora` beside four useless siblings; diffusers loads none of them.
        spelled = None if head.endswith("_proj") else _TEXT_PROJECTIONS.get(last)
    else:
        spelled = _UNET_PROJECTIONS.get(last)
    return None if spelled is None else f"{head}.{spelled}"
