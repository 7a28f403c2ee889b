"""The kernel of a convolution whose factors are saved flat, from the module's name in a Stable Diffusion UNet.

LyCORIS flattens in × kernel into one axis and writes the kernel nowhere; in these UNets it follows from the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ingest.errors import Refusal
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef

_THREE = re.compile(
    r"(?:^|[._])(?:resnets[._]\d+[._]conv[12]|(?:down|up)samplers[._]\d+[._]conv|conv_in|conv_out"
    r"|in_layers_2|out_layers_3|input_blocks_\d+_0_op|input_blocks_0_0|output_blocks_\d+_\d_conv|unet_out_2)$"
)
_ONE = re.compile(r"(?:^|[._])(?:conv_shortcut|skip_connection)$")
_PROJECTION = re.compile(r"(?:attentions[._]\d+|(?:in|out)put_blocks_\d+_\d|middle_block_\d)[._]proj_(?:in|out)$")
_CONV = re.compile(r"conv\d*d?$", re.IGNORECASE)
_TO_K = re.compile(r"attn2[._]to_k$")
# A plain A in any dialect, whose columns are the width of a cross attention.
_TO_K_DOWN = re.compile(r"attn2[._]to_k[._]lora(?:_A(?:\.[^.]+)?|[._]down)\.weight$")
# Of the published UNets only Stable Diffusion 1's, which attend to CLIP's 768, project by 1 × 1 convolutions.
_CROSS_OF_CONVOLUTIONS = 768


def cross_width(converted: Mapping[str, int], others: Iterable[TensorRef]) -> int | None:
    """The width that a file's cross attentions attend to, None if it has none.

    Parameters
    ----------
    converted
        Module to be converted → columns of its A.
    others
        The file's other tensors, plain LoRA factors among them.
    """
    for module, columns in converted.items():
        if _TO_K.search(module):
            return columns
    plain = (ref.shape[1] for ref in others if len(ref.shape) == 2 and _TO_K_DOWN.search(ref.key))
    return next(plain, None)


def kernel_of(module: str, columns: int, cross: int | None) -> tuple[int, ...]:
    """The kernel of a module whose factor has `columns` flat columns; empty for a linear layer.

    Parameters
    ----------
    module
        Its name in the file, with dots or underscores.
    columns
        in × kernel.
    cross
        The width that the file's cross attentions attend to, None if it has none.

    Raises
    ------
    Refusal
        `bad-shape` if the name is a convolution's whose kernel it does not tell, or the columns do not fit, or
        whether it is a convolution depends on a `cross` that is unknown.
    """
    if _THREE.search(module):
        if columns % 9:
            raise Refusal(Reason.BAD_SHAPE, f"{module!r} is a 3 × 3 convolution, but its factor has {columns} columns")
        return 3, 3
    if _ONE.search(module):
        return 1, 1
    if _PROJECTION.search(module):
        if cross is None:
            raise Refusal(
                Reason.BAD_SHAPE,
                f"{module!r} is a convolution in Stable Diffusion 1 and a linear layer in others, and the file has no "
                "attn2 to_k that tells which it is of",
            )
        return (1, 1) if cross == _CROSS_OF_CONVOLUTIONS else ()
    if _CONV.search(module):
        raise Refusal(
            Reason.BAD_SHAPE, f"{module!r} is a convolution, and flat factors do not tell its kernel from its channels"
        )
    return ()
