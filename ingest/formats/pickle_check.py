"""A pickle's instructions, followed without carrying them out: only what builds a state dict may be loaded.

torch's weights-only unpickler runs no code of the file's, but it still builds what the file tells it to: it
fills a bytearray of any length, encodes texts in quadratic time, and hashes tuples nested so deeply that the
interpreter's stack overflows.  So this reads a pickle first, as a machine whose values are kinds instead of
objects, and lets through what torch.save writes for tensors in dicts and lists.
"""

from __future__ import annotations

import io
import pickletools
from typing import Any, NoReturn

from ingest.errors import Refusal
from ingest.reasons import Reason

MAX_PICKLE_BYTES = 8 << 20
"""Without the tensors' values: some hundred bytes per tensor."""

_MAX_INSTRUCTIONS = 500_000  # 33 per tensor; about a second

_REBUILD = frozenset(
    (
        *("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"),
        *("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"),
    )
)
_FROM_TYPE = "torch._tensor _rebuild_from_type_v2"
_DICT = "collections OrderedDict"
_SIZE = "torch Size"
_DEVICE = "torch device"
_CALLABLE = _REBUILD | {_FROM_TYPE, _DICT, _SIZE, _DEVICE}
_DTYPES = frozenset(
    f"torch {name}"
    for name in (
        *("float16", "bfloat16", "float32", "float64", "bool", "uint8", "int8", "int16", "uint16", "int32", "uint32"),
        *("int64", "uint64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"),
        *("float8_e5m2fnuz", "float8_e8m0fnu"),
    )
)
_STORAGES = frozenset(
    (
        *(f"torch {kind}Storage" for kind in ("Half", "BFloat16", "Float", "Double", "Bool", "Byte", "Char", "Short")),
        *(f"torch {kind}Storage" for kind in ("Int", "Long", "ComplexFloat", "ComplexDouble")),
        "torch.storage UntypedStorage",
    )
)
_NAMED = _CALLABLE | _DTYPES | _STORAGES | {"torch Tensor", "torch.nn.parameter Parameter"}

_NUMBERS = frozenset(("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"))
_EMPTY = {"EMPTY_DICT": "dict", "EMPTY_LIST": "list"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_HASHED = ("number", "negative", "text")

# A kind, or the kinds of a tuple's items.
_Kind = Any


def check_pickle(file: io.BytesIO, where: str) -> None:
    """Follow one pickle from the file's position on and leave the position behind it.

    Parameters
    ----------
    file
        In memory, no longer than `MAX_PICKLE_BYTES`.
    where
        The file's name, for the message.

    Raises
    ------
    Refusal
        `pickle`, naming the forbidden global or instruction.

    Notes
    -----
    Cost: O(instructions), about 1 µs each; memory in proportion to the pickle.
    """
    try:
        _Machine(where).run(file)
    except Refusal:
        raise
    except Exception as error:  # a stranger's bytes: whatever goes wrong is their fault
        raise Refusal(Reason.PICKLE, f"{where} is no whole pickle ({type(error).__name__}: {error})") from error


class _Machine:
    def __init__(self, where: str) -> None:
        self._where = where
        self._stack: list[_Kind] = []
        self._marks: list[list[_Kind]] = []
        self._memo: dict[int, _Kind] = {}

    def run(self, file: io.BytesIO) -> None:
        last_texts = ("", "")
        arg: Any
        protocol = 2
        for count, (op, arg, _) in enumerate(pickletools.genops(file)):
            name = op.name
            if count == _MAX_INSTRUCTIONS:
                self._refuse(f"has a pickle of more than {_MAX_INSTRUCTIONS} instructions")
            if name in _NUMBERS:
                self._stack.append("negative" if isinstance(arg, int | float) and arg < 0 else "number")
            elif name in ("BINUNICODE", "SHORT_BINSTRING", "SHORT_BINUNICODE"):
                last_texts = (last_texts[1], str(arg)[:100])
                self._stack.append("text")
            elif name in ("BINGET", "LONG_BINGET"):
                self._stack.append(self._memo[arg])
            elif name in ("BINPUT", "LONG_BINPUT"):
                self._memo[arg] = self._stack[-1]
            elif name in _TUPLES:
                count = _TUPLES[name]
                items = tuple(self._stack[len(self._stack) - count :])
                if len(items) != count:
                    raise ValueError("too few values for a tuple")
                del self._stack[len(self._stack) - count :]
                self._stack.append(items)
            elif name in _EMPTY:
                self._stack.append(_EMPTY[name])
            elif name == "MARK":
                self._marks.append(self._stack)
                self._stack = []
            elif name == "GLOBAL":
                if arg not in _NAMED:
                    self._refuse(f"refers to {arg.replace(' ', '.')}")
                self._stack.append(f"={arg}")
            elif name in ("STACK_GLOBAL", "INST"):
                named = ".".join(last_texts) if name == "STACK_GLOBAL" else str(arg).replace(" ", ".")
                self._refuse(f"refers to {named}, in the manner of another pickle protocol than torch.save's")
            elif name == "PROTO":
                protocol = arg
            elif name == "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            elif name == "STOP":
                # Last, since what a foreign protocol would have called says more.
                if protocol != 2:
                    self._refuse(f"is of pickle protocol {protocol} instead of torch.save's 2")
                return
            elif name != "FRAME":
                self._combine(name)

    def _combine(self, name: str) -> None:
        """The instructions that put values together."""
        stack = self._stack
        if name == "TUPLE":
            self._pop_mark()
            self._stack.append(tuple(stack))
        elif name == "SETITEM":
            self._keys(stack[-2:-1])
            del stack[-2:]
            self._target("dict")
        elif name == "SETITEMS":
            self._keys(stack[::2])
            self._pop_mark()
            self._target("dict")
        elif name == "APPEND":
            stack.pop()
            self._target("list")
        elif name == "APPENDS":
            self._pop_mark()
            self._target("list")
        elif name == "BINPERSID":
            stack[-1] = "storage"
        elif name == "REDUCE":
            arguments = stack.pop()
            stack[-1] = self._called(stack[-1], arguments)
        elif name == "BUILD":
            # nn.Module.state_dict hangs its versions on the OrderedDict; nothing else needs it.
            if stack.pop() != "dict" or stack[-1] != "dict":
                self._refuse("sets the attributes of an object")
        else:
            self._refuse(f"has the instruction {name}, which torch.save does not write")

    def _called(self, function: _Kind, arguments: _Kind) -> str:
        name = function.removeprefix("=") if isinstance(function, str) and function[:1] == "=" else ""
        if name not in _CALLABLE or type(arguments) is not tuple:
            self._refuse(f"calls {name.replace(' ', '.') or 'a value'}")
        if name == _DICT:
            if arguments:
                self._refuse("fills an OrderedDict as Python 2 did")
            return "dict"
        if name == _FROM_TYPE and not (
            arguments and isinstance(arguments[0], str) and arguments[0].removeprefix("=") in _REBUILD
        ):
            self._refuse("rebuilds a tensor by an unknown function")
        # A tensor without memory takes these and counts its strides anew; one with memory does not.
        if name in _REBUILD and any(type(item) is tuple and "negative" in item for item in arguments):
            self._refuse("has a tensor of negative sizes or strides")
        return "size" if name == _SIZE else "device" if name == _DEVICE else "tensor"

    def _keys(self, keys: list[_Kind]) -> None:
        if any(type(key) is tuple or key not in _HASHED for key in keys):
            self._refuse("has a dict whose keys are neither texts nor numbers")

    def _target(self, kind: str) -> None:
        if self._stack[-1] != kind:
            self._refuse(f"takes something for a {kind} that is none")

    def _pop_mark(self) -> None:
        self._stack = self._marks.pop()

    def _refuse(self, what: str) -> NoReturn:
        raise Refusal(
            Reason.PICKLE,
            f"{self._where} {what}, which is no part of a state dict; if you trust it, load it yourself and save "
            "its tensors with safetensors.torch.save_file",
        )
