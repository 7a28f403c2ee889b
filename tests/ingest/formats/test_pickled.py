"""Files of torch.save: presented as the safetensors file of the same tensors, or refused, in bounded memory."""

from __future__ import annotations

import io
import os
import pickle
import resource
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.errors import EigenzooError, Refusal
from ingest.formats import AdapterFiles, Options, parse
from ingest.formats.opening import open_files
from ingest.formats.pickled import open_pickle
from ingest.formats.recipes import materialize
from ingest.reasons import Reason
from ingest.safetensors_file import read_all, read_header
from tests.ingest.builders import write_peft_folder

torch = pytest.importorskip("torch")

ALLOWED = Options(allow_pickle=True)
ZOO = Path(os.environ.get("EIGENZOO_REAL_ZOO", ""))


def saved(path: Path, value: Any, stream: bool = False) -> str:
    torch.save(value, path, _use_new_zipfile_serialization=not stream)
    return str(path)


def raw(tensor: Any) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def assert_same(path: str, want: dict[str, Any]) -> None:
    """Keys, types, shapes and bytes as torch.load has them, under the header of the file that holds just these."""
    pickled = open_pickle(path)
    assert list(pickled.header.tensors) == list(want)
    at = 0
    for key, tensor in want.items():
        ref = pickled.header.tensors[key]
        assert (f"torch.{ref.dtype}", ref.shape, ref.offset) == (str(tensor.dtype), tuple(tensor.shape), at)
        at += ref.nbytes
        values = pickled.tensor(ref)
        assert values.shape == ref.shape and values.dtype.name == ref.dtype and values.flags.c_contiguous
        assert values.tobytes() == raw(tensor)


def refusal(path: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        open_pickle(path)
    assert "\n" not in caught.value.detail
    return caught.value


def base() -> Any:
    return torch.arange(60, dtype=torch.float32).reshape(6, 10)


VALUES: dict[str, Callable[[], dict[str, Any]]] = {
    "every dtype": lambda: {
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in (
            *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8, torch.int8),
            *(torch.int16, torch.int32, torch.int64, torch.complex64),
        )
    },
    "strided": lambda: {
        "t": base().T,
        "slice": base()[1:5:2, 3:],
        "flip": base().permute(1, 0)[::3],
        "scalar": base()[2, 3],
        "none": base()[:0],
        "one": base()[3:4],
        "diagonal": base().diagonal(),
    },
    "shared": lambda: dict.fromkeys(("a", "b", "c"), base()) | {"d": base()},
    "parameters": lambda: OrderedDict(a=torch.nn.Parameter(base()), b=base().requires_grad_()),
    "module": lambda: torch.nn.Linear(3, 4).state_dict(),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_tensors_as_torch_has_them(tmp_path: Path, name: str, stream: bool) -> None:
    values = VALUES[name]()
    path = saved(tmp_path / "x.bin", values, stream)
    want = torch.load(path, weights_only=True)
    assert list(want) == list(values)
    assert_same(path, want)


def test_dtypes_that_only_archives_have(tmp_path: Path) -> None:
    values = {str(dtype): torch.arange(6).to(dtype) for dtype in (torch.float8_e4m3fn, torch.uint16, torch.uint64)}
    assert_same(saved(tmp_path / "x.bin", values), values)


def test_attributes_on_parameters_change_nothing(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(base())
    parameter.shape_hint = "x"
    parameter.stride = 7  # in the way of the method of that name
    assert_same(saved(tmp_path / "x.pt", {"a": parameter}), {"a": base()})


@pytest.mark.parametrize("wrapped", ["state_dict", "model"])
def test_checkpoints_around_the_weights(tmp_path: Path, wrapped: str) -> None:
    value = {
        "epoch": 3,
        "hyper_parameters": {"lr": 1e-3, "names": ["a", ("b", None)]},
        wrapped: OrderedDict(a=base()),
        "optimizer_states": [{"state": {0: {"exp_avg": base()}}}],
    }
    assert_same(saved(tmp_path / "x.ckpt", value), {"a": base()})


def test_a_list_of_pairs(tmp_path: Path) -> None:
    values = [torch.full((2, 3), i) for i in range(4)]
    keys = ("list:0:up", "list:0:down", "list:1:up", "list:1:down")
    assert_same(saved(tmp_path / "x.pt", values), dict(zip(keys, values, strict=True)))


NOT_WEIGHTS: dict[str, tuple[Any, Reason, str]] = {
    "an alpha as a number": ({"a": base(), "x.alpha": 4.0}, Reason.PICKLE, "x.alpha"),
    "a factor as a list": ({"a": base(), "x.lora_A.weight": [1.0]}, Reason.PICKLE, "lora_A"),
    "tensors beside tensors": ({"a": base(), "more": {"b": base()}}, Reason.PICKLE, "more"),
    "components": ({"unet": {"a": base()}, "text": {"b": base()}}, Reason.PICKLE, "unet"),
    "a number for a key": ({0: base()}, Reason.PICKLE, "key"),
    "the metadata's key": ({"__metadata__": base()}, Reason.PICKLE, "key"),
    "half a character": ({"\ud800": base()}, Reason.PICKLE, "key"),
    "an odd list": ([base()] * 3, Reason.PICKLE, "pairs"),
    "a mixed list": ([base(), 1], Reason.PICKLE, "pairs"),
    "one tensor": (base(), Reason.NO_WEIGHTS, "dict"),
    "nothing": ({}, Reason.NO_WEIGHTS, "dict"),
    "a conjugate": ({"a": torch.ones(2, dtype=torch.complex64).conj()}, Reason.PICKLE, "conjugate"),
    "a negative view": ({"a": torch.ones(2, dtype=torch.complex64).conj().imag}, Reason.PICKLE, "conjugate"),
    "an unknown dtype": ({"a": torch.ones(2, dtype=torch.complex128)}, Reason.UNSUPPORTED_DTYPE, "complex128"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, Reason.PICKLE, "torch._utils._rebuild_sparse_tensor"),
    "on no device": ({"a": torch.ones(2, device="meta")}, Reason.PICKLE, "_rebuild_meta_tensor_no_storage"),
    "a set": ({"a": base(), "b": {1, 2}}, Reason.PICKLE, "set"),
    "an array": ({"a": base(), "b": np.ones(2)}, Reason.PICKLE, "numpy"),
    "a path": ({"a": base(), "b": Path("x")}, Reason.PICKLE, "pathlib"),
}


@pytest.mark.parametrize("name", NOT_WEIGHTS)
def test_what_is_no_state_dict_is_named(tmp_path: Path, name: str) -> None:
    value, reason, word = NOT_WEIGHTS[name]
    found = refusal(saved(tmp_path / "x.bin", value))
    assert found.reason is reason and word in found.detail


# Strangers' pickles


class Calls:
    """Pickled as a call of anything."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> Any:
        return self._call


def archive(path: Path, data: bytes, **members: bytes) -> str:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", data)
        file.writestr("x/version", b"3")
        for name, content in members.items():
            file.writestr(f"x/{name}", content)
    return str(path)


MARKER = "F2_SHOULD_NOT_EXIST"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "system, protocol 2": (pickle.dumps({"a": Calls(os.system, f"touch {MARKER}")}, 2), "system"),
    "system, protocol 4": (pickle.dumps({"a": Calls(os.system, f"touch {MARKER}")}, 4), "system"),
    "system, protocol 0": (pickle.dumps({"a": Calls(os.system, f"touch {MARKER}")}, 0), ""),
    "eval": (pickle.dumps(Calls(eval, f"open('{MARKER}', 'w')"), 2), "eval"),
    "bytes without end": (pickle.dumps(Calls(bytearray, 1 << 42), 2), "bytearray"),
    "slow encoding": (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00idna\x86R.", "_codecs.encode"),
    "a tuple as deep as the stack": (b"\x80\x02}(" + b")" + b"\x85" * 100_000 + b"K\x01u.", "keys"),
    "a list as deep as the stack": (b"\x80\x02" + b"](" * 100_000 + b"e" * 100_000 + b".", ""),
    "a doubling tuple": (b"\x80\x02K\x01" + b"q\x00h\x00\x86" * 100 + b".", ""),
    "a doubling tuple, called": (
        b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nK\x01" + b"q\x00h\x00\x86" * 100 + b"R.",
        "unknown function",
    ),
    "a doubling storage": (b"\x80\x02K\x01" + b"q\x00h\x00\x86" * 100 + b"Q.", ""),
    "a call of a text": (b"\x80\x02X\x01\x00\x00\x00a)R.", "calls"),
    "an attribute of a tensor": (b"\x80\x02ctorch\nSize\n)\x85R}b.", "attributes"),
    "an old number": (b"\x80\x02I" + b"9" * 100_000 + b"\n.", ""),
    "instructions without end": (b"\x80\x02" + b"N" * 600_000 + b".", "instructions"),
    "nothing on the stack": (b"\x80\x02R.", ""),
    "no end": (b"\x80\x02}", ""),
    "a text of 4 GiB": (b"\x80\x02X\xff\xff\xff\xffa.", ""),
    "extension codes": (b"\x80\x02\x82\x01.", "EXT1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, word = HOSTILE[name]
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + (512 << 20), limit[1]))
    try:
        for found in (refusal(archive(tmp_path / "x.pt", data)), refusal(_stream(tmp_path / "y.pt", data))):
            assert found.reason in (Reason.PICKLE, Reason.NO_WEIGHTS) and word in found.detail
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    assert not (tmp_path / MARKER).exists()


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _stream(path: Path, data: bytes) -> str:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    path.write_bytes(
        b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system))
        + data
        + pickle.dumps([], 2)
    )
    return str(path)


def tensor_pickle(
    count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, key: str = "0", many: int = 1
) -> bytes:
    """The pickle of tensors over one storage, whatever they claim."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value: int) -> bytes:
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    pid = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + b"tQ"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + pid
        + number(offset)
        + numbers(size)
        + numbers(stride)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )
    items = b"".join(text(f"k{i}") + tensor for i in range(many))
    return b"\x80\x02}(" + items + b"u."


DATA = bytes(range(64))
CLAIMS: dict[str, tuple[bytes, dict[str, bytes], Reason]] = {
    "a storage that is not there": (tensor_pickle(16, (4,), (1,), key="1"), {}, Reason.TRUNCATED),
    "a storage beyond the archive": (tensor_pickle(16, (4,), (1,), key="../data.pkl"), {}, Reason.TRUNCATED),
    "more than the storage": (tensor_pickle(17, (17,), (1,)), {}, Reason.TRUNCATED),
    "an expansion to terabytes": (tensor_pickle(16, (1 << 40,), (0,)), {}, Reason.PICKLE),
    "an expansion a little larger": (tensor_pickle(16, (17,), (0,)), {}, Reason.PICKLE),
    "beyond the end": (tensor_pickle(16, (4,), (1,), offset=13), {}, Reason.PICKLE),
    "strides beyond the end": (tensor_pickle(16, (2, 2), (15, 1)), {}, Reason.PICKLE),
    "a negative stride": (tensor_pickle(16, (2,), (-1,), offset=4), {}, Reason.PICKLE),
    "a negative size": (tensor_pickle(16, (-2,), (1,)), {}, Reason.PICKLE),
    "sizes whose product overflows": (tensor_pickle(16, (1 << 33, 1 << 33), (0, 0)), {}, Reason.PICKLE),
    "strides whose product overflows": (tensor_pickle(16, (4, 4), (1 << 62, 1 << 62)), {}, Reason.PICKLE),
    "a negative count": (tensor_pickle(-16, (2,), (1,)), {}, Reason.PICKLE),
    "a storage of exabytes": (tensor_pickle(1 << 62, (2,), (1,)), {}, Reason.PICKLE),
    "forty dimensions": (tensor_pickle(16, (1,) * 40, (1,) * 40), {}, Reason.PICKLE),
    "one storage a hundred times": (tensor_pickle(4096, (4096,), (1,), many=100), {"0": bytes(16384)}, Reason.PICKLE),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_are_held_against_the_file(tmp_path: Path, name: str) -> None:
    data, storages, reason = CLAIMS[name]
    storages = storages or {"0": DATA}
    path = archive(tmp_path / "x.pt", data, **{f"data/{key}": value for key, value in storages.items()})
    assert refusal(path).reason is reason


def test_an_honest_claim_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pt", tensor_pickle(16, (3, 2), (1, 7), offset=2), **{"data/0": DATA})
    pickled = open_pickle(path)
    want = np.frombuffer(DATA, np.float32)[[[2, 9], [3, 10], [4, 11]]]
    assert pickled.tensor(pickled.header.tensors["k0"]).tobytes() == want.tobytes()
    assert raw(torch.load(path, weights_only=True)["k0"]) == want.tobytes()


# Archives and streams


def rewritten(path: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]) -> str:
    whole = io.BytesIO()
    torch.save({"a": base()}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            change(new, entry, old.read(entry))
    return str(path)


def test_a_compressed_member_is_refused_before_it_grows(tmp_path: Path) -> None:
    path = rewritten(
        tmp_path / "x.pt", lambda new, entry, data: new.writestr(entry.filename, data, zipfile.ZIP_DEFLATED)
    )
    assert "compressed" in refusal(path).detail


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_are_not_torchs(tmp_path: Path) -> None:
    def twice(new: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
        new.writestr(entry.filename, data)
        new.writestr(entry.filename, data)

    def big(new: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
        new.writestr(entry.filename, b"big" if entry.filename.endswith("byteorder") else data)

    def program(new: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
        new.writestr(entry.filename.replace("data.pkl", "constants.pkl"), data)

    def other(new: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes) -> None:
        new.writestr("other/" + entry.filename, data)

    for change, word in ((twice, "two members"), (big, "big-endian"), (program, "TorchScript"), (other, "data.pkl")):
        found = refusal(rewritten(tmp_path / "x.pt", change))
        assert found.reason is Reason.PICKLE and word in found.detail


def test_a_directory_of_hundred_thousand_members_is_not_read(tmp_path: Path) -> None:
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + b"%06d" % i for i in range(100_000))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), 30, 0)
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04" + b"\0" * 26 + directory + end)
    found = refusal(str(tmp_path / "x.pt"))
    assert found.reason is Reason.PICKLE and "directory" in found.detail


@pytest.mark.parametrize("stream", [False, True])
def test_every_truncation_is_refused(tmp_path: Path, stream: bool) -> None:
    path = saved(tmp_path / "x.pt", {"a": base()}, stream)
    whole = Path(path).read_bytes()
    for length in {0, 1, 4, 7, *range(8, len(whole), 41), len(whole) - 1}:
        Path(path).write_bytes(whole[:length])
        assert refusal(path).reason in (Reason.TRUNCATED, Reason.PICKLE, Reason.UNREADABLE)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.booleans(), st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_whatever_a_file_holds_it_is_read_or_refused(
    tmp_path: Path, stream: bool, patches: list[tuple[float, bytes]]
) -> None:
    path = saved(tmp_path / "x.pt", {"a": base(), "b": base().T, "c": torch.nn.Parameter(base())}, stream)
    data = bytearray(Path(path).read_bytes())
    for where, patch in patches:
        at = int(where * (len(data) - 1))
        data[at : at + len(patch)] = patch
    Path(path).write_bytes(data)
    try:
        pickled = open_pickle(path)
    except Refusal as found:
        assert found.detail
        return
    for ref in pickled.header.tensors.values():
        assert pickled.tensor(ref).nbytes == ref.nbytes <= 4 * len(data)


def test_other_files_under_these_names(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    for content, reason in (
        (b"version https://git-lfs.github.com/spec/v1\n", Reason.UNREADABLE),
        (pickle.dumps({"a": 1}, 2), Reason.PICKLE),
        (pickle.dumps(5, 4), Reason.PICKLE),
        (b"\x93NUMPY", Reason.UNREADABLE),
    ):
        path.write_bytes(content)
        assert refusal(str(path)).reason is reason


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.bin")
    assert refusal(str(tmp_path / "x.bin")).reason is Reason.UNREADABLE


def test_a_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", {"a": torch.ones(1 << 16)})
    pickled = open_pickle(path)
    os.truncate(path, 4096)
    with pytest.raises(Refusal) as caught:
        pickled.tensor(pickled.header.tensors["a"])
    assert caught.value.reason is Reason.TRUNCATED


# As adapters


def pickled_peft(path: Path) -> tuple[AdapterFiles, dict[str, Any]]:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 6)).astype(np.float32), rng.standard_normal((4, 2)).astype(np.float32)
    files = write_peft_folder(path, {"layers.0.q": (a, b)})
    tensors = {key: torch.from_numpy(value).T.contiguous().T for key, value in read_all(files.weights).items()}
    tensors["base_model.model.score.weight"] = torch.ones(3, dtype=torch.bfloat16)
    os.remove(files.weights)
    return AdapterFiles(files.folder, saved(path / "adapter_model.bin", tensors), files.config), tensors


def test_an_adapter_becomes_the_safetensors_file_of_the_same_tensors(tmp_path: Path) -> None:
    files, tensors = pickled_peft(tmp_path / "in")
    adapter = parse(files, ALLOWED)
    assert (adapter.format, adapter.recipe) == ("peft", "pickle")
    assert [ref.key for ref in adapter.extras] == ["base_model.model.score.weight"]
    done = materialize(adapter, ALLOWED, str(tmp_path / "out.safetensors"))
    header = read_header(done.factors)
    assert header.data_start == done.data_start
    for ref in (done.modules[0].a, done.modules[0].b, *done.extras):
        assert header.tensors[ref.key] == ref
    written = read_all(done.factors)
    assert {key: value.tobytes() for key, value in written.items()} == {k: raw(v) for k, v in tensors.items()}


def test_only_on_request(tmp_path: Path) -> None:
    files, _ = pickled_peft(tmp_path)
    with pytest.raises(Refusal) as caught:
        parse(files)
    assert caught.value.reason is Reason.PICKLE and "--allow-pickle" in caught.value.detail


def test_a_missing_file_is_no_pickle(tmp_path: Path) -> None:
    files, _ = pickled_peft(tmp_path)
    os.remove(files.weights)
    with pytest.raises(Refusal) as caught:
        parse(files, ALLOWED)
    assert caught.value.reason is Reason.NO_WEIGHTS


def test_without_torch_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = pickled_peft(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EigenzooError, match=r"pip install 'eigenzoo\[torch\]'") as caught:
        parse(files, ALLOWED)
    assert not isinstance(caught.value, Refusal)


@pytest.mark.skipif("EIGENZOO_REAL_ZOO" not in os.environ, reason="EIGENZOO_REAL_ZOO is not set")
@pytest.mark.parametrize(
    "path", sorted(str(path.relative_to(ZOO)) for end in ("bin", "pt") for path in ZOO.glob(f"*/*.{end}")) or [""]
)
def test_real_files_as_torch_has_them(path: str) -> None:
    want = torch.load(ZOO / path, weights_only=True, map_location="cpu")
    if isinstance(want, list):
        want = {f"list:{i // 2}:{('up', 'down')[i % 2]}": value for i, value in enumerate(want)}
    assert_same(str(ZOO / path), want)
    files = AdapterFiles(str((ZOO / path).parent), str(ZOO / path))
    assert open_files(files, ALLOWED).recipe == "pickle"
