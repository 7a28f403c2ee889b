"""LyCORIS' products of low-rank matrices, presented as the LoRA that they equal; what LoHa and LoKr share.

Both are written by lycoris (kohya's key names, `.alpha` tensors, modules spelled `lora_unet_…`, `lora_te…`,
`lycoris_…`, with dots, or as ComfyUI's `diffusion_model.…`) and by peft (a folder with a configuration). The converted
file is described as if its factors lay in a safetensors file of kohya's, diffusers', ComfyUI's or peft's names; that
file is written when the values are wanted (`ingest.formats.recipes`). Other tensors go into it unchanged, plain LoRA
modules of the same file too.

Every entry of a factor is one product of two of the file's numbers, held in a type in which it is exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ingest.errors import Refusal
from ingest.formats import comfy, diffusers, foreign, kohya, lycoris_plain
from ingest.formats.adapter import LoraAdapter, LoraModule
from ingest.formats.alphas import read_alphas
from ingest.formats.kernels import cross_width, kernel_of
from ingest.formats.low_rank import Method, Pair, check_growth
from ingest.formats.opened import Opened
from ingest.formats.pairing import Factor, pair
from ingest.reasons import Reason
from ingest.safetensors_file import SafetensorsHeader, TensorRef, numpy_dtype, pack_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BASE = "base_model.model."
_DIALECTS = (kohya, lycoris_plain, diffusers, comfy)


class _Module(NamedTuple):
    """A module to be converted: its parts in the file, its factors, and these as tensors of the file to be."""

    parts: Mapping[str, TensorRef]
    pair: Pair
    a: TensorRef
    b: TensorRef


class _Layout(NamedTuple):
    """The file to be: its tensors in order, the modules to be converted, tensors taken over, and alphas."""

    header: SafetensorsHeader
    modules: Mapping[str, _Module]
    kept: Mapping[str, TensorRef]
    alphas: Mapping[str, TensorRef]


def claims(method: Method, keys: Any) -> bool:
    """Whether any key is a part of the method's."""
    return any(_split(method, key) is not None for key in keys)


def parse(method: Method, opened: Opened) -> LoraAdapter:
    """Describe the LoRA that an adapter equals; see `ingest.formats.parse` for what it raises."""
    if method.name not in opened.options.convert:
        example = next(key for key in opened.header.tensors if _split(method, key) is not None)
        raise Refusal(
            Reason.NOT_LORA,
            f"{opened.where} holds {method.title} factors (such as {example!r}); --convert {method.name} rewrites them "
            "as LoRA factors where that is exact",
        )
    layout = _lay_out(method, opened)
    if opened.config is not None:
        return _parse_peft(method, opened, layout)
    read = opened.tensor
    virtual = dataclasses.replace(
        opened,
        header=layout.header,
        tensor=None if read is None else lambda ref: read(layout.kept[ref.key]),
        recipe=method.name,
    )
    keys = tuple(layout.header.tensors)
    dialect: Any = next((entry for entry in _DIALECTS if entry.claims(keys, False)), None)
    if dialect is None:
        raise foreign.explain(keys, opened.where)
    try:
        adapter: LoraAdapter = dialect.parse(virtual)
    except Refusal as refusal:
        raise Refusal(refusal.reason, _by_parts(refusal.detail, layout)) from refusal
    scales = _scales(opened, layout)
    modules = tuple(_scaled(module, scales) for module in adapter.modules)
    name = adapter.format.replace(dialect.NAME, method.name, 1)
    return dataclasses.replace(adapter, format=name, modules=modules)


def rewritten(method: Method, opened: Opened) -> tuple[SafetensorsHeader, Iterator[tuple[TensorRef, NDArray[Any]]]]:
    """The file that `parse` describes: its header, and its tensors in that order, one module in memory at a time.

    Raises
    ------
    Refusal
        As `parse`; while iterating `unsupported-dtype` if a product leaves the range of the type that is to hold
        it, `untrained` if every product of factors is zero.
    """
    read = opened.tensor
    if read is None:
        raise Refusal(Reason.UNREADABLE, f"{opened.where} is not at hand")
    layout = _lay_out(method, opened)
    return layout.header, _values(method, layout, read, opened.where)


def _by_parts(detail: str, layout: _Layout) -> str:
    """A message on the file to be, in terms of the file that is there."""
    for module in layout.modules.values():
        part = next(iter(module.parts.values())).key
        for ref in (module.a, module.b):
            detail = detail.replace(repr(ref.key), repr(part))
    return detail


def _values(
    method: Method, layout: _Layout, read: Callable[[TensorRef], NDArray[Any]], where: str
) -> Iterator[tuple[TensorRef, NDArray[Any]]]:
    trained = any(key.endswith((".lora_up.weight", ".lora.up.weight")) for key in layout.kept)
    for module in layout.modules.values():
        a, b = _converted(method, module, read, where)
        # Either side may be the one that starts at zero, which A and B tell only together.
        trained = trained or bool(a.any() and b.any())
        yield module.a, a.reshape(module.a.shape)
        yield module.b, b.reshape(module.b.shape)
    for key, ref in layout.kept.items():
        yield layout.header.tensors[key], read(ref)
    if not trained:
        raise Refusal(Reason.UNTRAINED, f"every product in {where} is zero: the adapter was never trained")


def _split(method: Method, key: str) -> tuple[str, str] | None:
    match = method.part.search(key)
    return (key[: match.start()], match[1]) if match and match.start() else None


def _lay_out(method: Method, opened: Opened) -> _Layout:
    parts: dict[str, dict[str, TensorRef]] = {}
    rest: dict[str, TensorRef] = {}
    for key, ref in opened.header.tensors.items():
        split = _split(method, key)
        if split is None:
            rest[key] = ref
        else:
            parts.setdefault(split[0], {})[split[1]] = ref
    alphas = {module: rest.pop(f"{module}.alpha") for module in parts if f"{module}.alpha" in rest}
    pairs = {module: method.shapes(module, found) for module, found in parts.items()}
    check_growth(method.title, pairs.values(), opened.header.size, opened.where)
    cross = cross_width({module: pair.a.columns for module, pair in pairs.items()}, rest.values())
    modules: dict[str, _Module] = {}
    refs: list[TensorRef] = []
    at = 0
    for module, found in pairs.items():
        name = _virtual_name(module, peft=opened.config is not None)
        kernel = found.kernel or kernel_of(module, found.a.columns, cross)
        ones = (1,) * len(kernel)
        inner = found.a.columns // math.prod(kernel)
        made = []
        for key, shape, dtype in (
            (name[0], (found.a.rows, inner, *kernel), found.a.dtype),
            (name[1], (found.b.rows, found.b.columns, *ones), found.b.dtype),
        ):
            nbytes = shape[0] * shape[1] * math.prod(kernel if key == name[0] else ones) * numpy_dtype(dtype).itemsize
            made.append(TensorRef(key, dtype, shape, at, nbytes))
            at += nbytes
        modules[module] = _Module(parts[module], found, made[0], made[1])
        refs += made
    for ref in rest.values():
        refs.append(dataclasses.replace(ref, offset=at))
        at += ref.nbytes
    by_key = {ref.key: ref for ref in refs}
    if len(by_key) != len(refs):
        raise Refusal(Reason.UNKNOWN_KEYS, f"{opened.where} has a module as {method.title} and as LoRA")
    header = dataclasses.replace(opened.header, data_start=len(pack_header(refs)), tensors=by_key)
    return _Layout(header, modules, rest, alphas)


def _virtual_name(module: str, peft: bool) -> tuple[str, str]:
    """The keys of A and B."""
    if peft:
        return f"{module}.lora_A.weight", f"{module}.lora_B.weight"
    if "." in module:
        return f"{module}.lora.down.weight", f"{module}.lora.up.weight"
    return f"{module}.lora_down.weight", f"{module}.lora_up.weight"


def _scales(opened: Opened, layout: _Layout) -> dict[str, float]:
    """By A's key, as lycoris: alpha / rank; 1 without an alpha or without a rank."""
    alphas = dict(read_alphas(opened, layout.alphas.items()))
    scales = {}
    for name, module in layout.modules.items():
        alpha, rank = alphas.get(name), module.pair.rank
        if alpha == 0:
            raise Refusal(
                Reason.BAD_CONFIG,
                f"{layout.alphas[name].key!r} is 0, which lycoris takes for the rank and others for nothing; mend it",
            )
        scales[module.a.key] = 1.0 if alpha is None or rank is None else alpha / rank
    return scales


def _scaled(module: LoraModule, scales: Mapping[str, float]) -> LoraModule:
    return dataclasses.replace(module, scale=scales[module.a.key]) if module.a.key in scales else module


def _parse_peft(method: Method, opened: Opened, layout: _Layout) -> LoraAdapter:
    if opened.config is None or opened.config.peft_type != method.name.upper():
        raise Refusal(
            Reason.BAD_CONFIG, f"{opened.where} holds {method.title} factors, but adapter_config.json says otherwise"
        )
    if layout.alphas:
        raise Refusal(Reason.BAD_CONFIG, f"{opened.where} has alpha tensors beside peft's configuration")
    settings = opened.config.settings
    settings.check_work([name.removeprefix(_BASE) for name in layout.modules], "adapter_config.json")
    extras = []
    for key in layout.kept:
        if foreign.looks_like_lora(key):
            raise foreign.stranger(key, opened.where)
        extras.append(layout.header.tensors[key])
    factors = []
    for name, module in layout.modules.items():
        factors += [Factor(name, "A", False, module.a), Factor(name, "B", False, module.b)]

    def scale(name: str, rank: int) -> float:
        del rank  # of the product; alpha is divided by the method's own
        base_name, own = name.removeprefix(_BASE), layout.modules[name].pair.rank
        if own is not None and settings.rank(base_name) != own:
            raise Refusal(
                Reason.BAD_SHAPE,
                f"{name!r} has rank {own}, but adapter_config.json (r, rank_pattern) says {settings.rank(base_name)}",
            )
        return settings.scale(base_name)

    modules = pair(factors, scale, "transformers", opened.options.renames)
    virtual = dataclasses.replace(opened, header=layout.header, recipe=method.name)
    return virtual.adapter(method.name, modules, extras)


def _converted(
    method: Method, module: _Module, read: Callable[[TensorRef], NDArray[Any]], where: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    import numpy as np

    values = {part: read(ref) for part, ref in module.parts.items()}
    try:
        # Underflow is flagged where a result is tiny and not exact; infinities of the file's own raise nothing.
        with np.errstate(over="raise", under="raise", invalid="ignore"):
            return method.factors(values, module.pair)
    except FloatingPointError as error:
        raise Refusal(
            Reason.UNSUPPORTED_DTYPE,
            f"{where}: products of {module.a.key!r} or its B leave the range of float32, so they are not exact there",
        ) from error
