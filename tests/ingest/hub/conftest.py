"""Sessions with the tests' own Hub, and small adapters to publish there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ingest.formats import Options
from ingest.hub.session import HubSession
from tests.ingest.builders import factors, write_peft_folder
from tests.ingest.hub.server import HubServer

Files = dict[str, bytes]


@pytest.fixture
def session(hub: HubServer, tmp_path: Path) -> Iterator[HubSession]:
    with HubSession(str(tmp_path / "staging"), options=Options(), threads=4) as made:
        yield made


@pytest.fixture
def again(hub: HubServer, tmp_path: Path) -> Callable[..., HubSession]:
    """Makes another session with the same staging folder and caches."""

    def make(**more: object) -> HubSession:
        options = more.pop("options", Options())
        return HubSession(str(tmp_path / "staging"), options=options, **more)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="session")
def peft(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Files]:
    """The files of a small PEFT adapter, another for each number."""

    def make(number: int = 0, width: int = 64, **config: object) -> Files:
        rng = np.random.default_rng(number)
        modules = {f"model.layers.{i}.self_attn.q_proj": factors(rng, 4, width, width) for i in range(2)}
        folder = tmp_path_factory.mktemp("peft")
        write_peft_folder(folder, modules, **config)  # type: ignore[arg-type]
        (folder / "README.md").write_text("---\nlicense: mit\nbase_model: some/base\n---\n")
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    return make
