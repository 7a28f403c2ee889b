"""A zoo from the Hub: faults of every kind, kills at random moments, and nothing fetched twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingest.store.reader import Zoo, open_zoo
from ingest.store.root import read_commit
from ingest.verify import verify
from tests.ingest.builders import factors, write_peft_folder
from tests.ingest.hub.server import HubServer

PERMANENT = {"404": "not-found", "gated": "gated", "wrong-bytes": "wrong-bytes", "pointer": "wrong-bytes"}
PASSING = ("429", "500", "drop", "slow", "renamed")
HEADER = "bytes=0-"
AT_ONCE = 8  # downloads

INGEST = """
import sys, ingest.pipeline as p, ingest.hub.calls as calls, ingest.hub.session, huggingface_hub, xxhash, zarr, filelock
import ingest.store.schema as s
calls.SECOND = 0.01
s.MIN_CHUNK_BYTES = s.MAX_CHUNK_BYTES = 65_536  # so that a commit need not be large
p.BATCH_BYTES = int(sys.argv[3])
print("ready", flush=True)
p.ingest(sys.argv[1].split(","), sys.argv[2])
"""


@dataclass
class Published:
    """Repositories with their faults: 5 % of them for every kind."""

    server: HubServer
    folder: Path
    names: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)

    @property
    def sources(self) -> str:
        """The author's listing, and a file of names: those that moved, under the names that they had."""
        listing = self.folder / "names.txt"
        listing.write_text("\n".join(["zoo/never-there", *self.moved]))
        return f"hub:zoo,{listing}"

    def spoil(self) -> None:
        """Deal the faults out."""
        rng = random.Random(0)
        some = max(1, len(self.names) // 20)
        chosen = iter(rng.sample(self.names, some * (len(PERMANENT) + len(PASSING))))
        for kind, reason in PERMANENT.items():
            for _ in range(some):
                name = next(chosen)
                self.server.fault(name, kind)
                self.reasons[name] = reason
        for kind in PASSING:
            for _ in range(some):
                name = next(chosen)
                if kind == "renamed":
                    self.moved[name] = f"elsewhere/{name.partition('/')[2]}"
                    self.server.rename(name, self.moved[name])
                else:
                    self.server.fault(name, kind, times=2, seconds=0.05)
        self.reasons["zoo/never-there"] = "not-found"


@pytest.fixture
def published(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Published]:
    pytest.importorskip("huggingface_hub")
    rng = np.random.default_rng(0)
    with HubServer() as server:
        made = Published(server, tmp_path)
        for i in range(request.param):
            # Larger than the 100 kB in which a header is looked for.
            layers = {f"model.layers.{n}.self_attn.q_proj": factors(rng, 4, 2048, 2048) for n in range(4)}
            write_peft_folder(tmp_path / "hub" / str(i), layers)
            (tmp_path / "hub" / str(i) / "README.md").write_text("---\nlicense: mit\n---\n")
            made.names.append(f"zoo/adapter-{i}")
            server.add_folder(made.names[-1], tmp_path / "hub" / str(i))
        yield made


def start(made: Published, zoo: Path, home: str, batch: int) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    environment |= made.server.environment(made.folder / home)
    arguments = [sys.executable, "-c", INGEST, made.sources, str(zoo), str(batch)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def contents(zoo: Zoo) -> dict[str, Any]:
    """Everything that is in the zoo, adapter by adapter."""
    return {
        r.name.partition("/")[2]: (
            r.licence,
            zoo.config(r.name),
            [(m.layer, m.scale, m.A.tobytes(), m.B.tobytes()) for m in zoo.adapter(r.name)],
        )
        for r in zoo.accepted
    }


def downloads(server: HubServer) -> Counter[str]:
    """Repository → bytes of its weights that were sent; the looks at headers are no downloads."""
    sent: Counter[str] = Counter()
    for call in server.select("storage", method="GET"):
        if not call.range.startswith(HEADER):
            sent[call.repo] += call.sent
    return sent


def weights(server: HubServer, repo: str) -> int:
    (entry,) = [p for p in server.repos[repo].commits[server.repos[repo].commit].items() if p[0].endswith("tensors")]
    return entry[1].stat().st_size if isinstance(entry[1], Path) else len(entry[1])


@pytest.mark.parametrize(
    ("published", "kills"),
    [(60, 3), pytest.param(1000, 10, marks=pytest.mark.slow)],
    indirect=["published"],
)
def test_faults_and_kills_end_in_the_same_zoo(published: Published, tmp_path: Path, kills: int) -> None:
    batch = max(1, len(published.names) // 40) * 140_000
    plain = start(published, tmp_path / "plain", "hf-plain", batch)
    begin = time.monotonic()
    assert plain.wait() == 0
    seconds = time.monotonic() - begin
    wanted = contents(open_zoo(tmp_path / "plain"))
    assert len(wanted) == len(published.names)

    published.spoil()
    published.server.forget()
    zoo = tmp_path / "zoo"
    rng = random.Random(1)
    versions = []
    for _ in range(kills):
        process = start(published, zoo, "hf", batch)
        try:
            process.wait(rng.uniform(0, max(1.0, 0.25 * seconds)))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        commit = read_commit(str(zoo))
        versions.append(commit.version if commit else 0)
    assert start(published, zoo, "hf", batch).wait() == 0

    opened = open_zoo(zoo)
    spoilt = {name.partition("/")[2] for name in published.reasons}
    assert contents(opened) == {name: value for name, value in wanted.items() if name not in spoilt}
    refused = {r.name: r.reason for r in opened.adapters if r.status == "refused"}
    assert refused == published.reasons
    assert verify(opened).problems == ()
    assert len(set(versions)) > min(kills // 2, 3), f"the kills fell on different commits: {versions}"
    fetched = downloads(published.server)
    sizes = {repo: weights(published.server, repo) for repo in fetched}
    again = sum(max(0, sent - sizes[repo]) for repo, sent in fetched.items())
    assert again <= kills * AT_ONCE * max(sizes.values()), "only what a kill cut off is fetched again"
    assert not (zoo / "staging").exists()
    print(
        f"{len(published.names)} repositories, {seconds:.0f} s undisturbed, commits seen {versions}, "
        f"{sum(fetched.values())} bytes downloaded, {again} of them again, "
        f"calls {dict(Counter(c.kind for c in published.server.select()))}"
    )

    before = published.server.count()
    assert start(published, zoo, "hf", batch).wait() == 0
    assert open_zoo(zoo).commit.version == opened.commit.version, "a second run has nothing to commit"
    assert downloads(published.server) == fetched
    assert published.server.count() - before < 12 * len(published.reasons) + 4 * len(published.moved) + 20
