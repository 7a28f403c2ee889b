"""Ingest of a zoo larger than the memory it is given, side by side with a plain copy of the same bytes.

    python bench/ingest_large.py                        500 adapters, 8 GiB in all, 2 GiB of memory
    python bench/ingest_large.py --adapters 50          a quick look

The adapters are shaped as those of Lots-of-LoRAs: Mistral 7B, rank 16, q, k and v, float32; of 15 layers instead of 32.
Each side is a process of its own, in turn (copy, ingest, copy, …), and flushes what it wrote. Where the machine has a
memory controller that may be written to, both run in a group that has that much memory in all, its share of the page
cache included; elsewhere only ``memory=`` holds ingest to it, and the table says so. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

GIB = 1 << 30
LAYERS = 15
CONTROLLERS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
LIMITS = ("memory.limit_in_bytes", "memory.max")

COPY = """
import os, shutil, sys
source, target = sys.argv[1:]
os.mkdir(target)
for name in sorted(os.listdir(source)):
    os.mkdir(f"{target}/{name}")
    for file in os.listdir(f"{source}/{name}"):
        shutil.copyfile(f"{source}/{name}/{file}", f"{target}/{name}/{file}")
        handle = os.open(f"{target}/{name}/{file}", os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
"""
INGEST = """
import sys
from ingest.pipeline import ingest
from ingest.settings import Settings
result = ingest(sys.argv[1], sys.argv[2], Settings(memory=int(sys.argv[3])))
assert not result.refused, result.refused[:1]
"""


def write_adapters(folder: Path, count: int) -> int:
    """Adapters of random values in Lots-of-LoRAs' shapes; returns the bytes of their weights."""
    import numpy as np
    from safetensors.numpy import save_file

    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2",
        "r": 16,
        "lora_alpha": 32,
        "target_modules": ["q_proj", "k_proj", "v_proj"],
    }
    rng = np.random.default_rng(0)
    total = 0
    for i in range(count):
        tensors = {}
        for layer in range(LAYERS):
            for name, out in (("q_proj", 4096), ("k_proj", 1024), ("v_proj", 1024)):
                key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
                tensors[f"{key}.lora_A.weight"] = rng.random((16, 4096), np.float32)
                tensors[f"{key}.lora_B.weight"] = rng.random((out, 16), np.float32)
        home = folder / f"Mistral-7B-Instruct-v0.2-4b-r16-task{i}"
        home.mkdir(parents=True)
        save_file(tensors, home / "adapter_model.safetensors")
        (home / "adapter_config.json").write_text(json.dumps(config))
        total += (home / "adapter_model.safetensors").stat().st_size
    return total


class Confined:
    """A control group with so much memory, if one can be made; `enter` puts the calling process into it."""

    def __init__(self, nbytes: int) -> None:
        self.folder: Path | None = None
        for controller, limit in zip(CONTROLLERS, LIMITS, strict=True):
            folder = controller / f"bench-{os.getpid()}"
            try:
                folder.mkdir()
                (folder / limit).write_text(str(nbytes))
                self.folder = folder
                return
            except OSError:
                if folder.is_dir():
                    folder.rmdir()

    def enter(self) -> None:
        if self.folder is not None:
            (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def close(self) -> None:
        if self.folder is not None:
            self.folder.rmdir()


def timed(code: str, arguments: list[str], confined: Confined) -> tuple[float, int]:
    """Seconds and peak resident bytes of one process."""
    begin = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, preexec_fn=confined.enter)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise SystemExit(f"{arguments[0]}: exit status {status}")
    return seconds, usage.ru_maxrss * 1024


def measure(work: Path, adapters: int, memory: int, repeats: int) -> dict[str, Any]:
    """The pairs' times and peaks."""
    source = work / "in"
    nbytes = write_adapters(source, adapters)
    confined = Confined(memory)
    pairs = []
    try:
        for i in range(repeats):
            copy, _ = timed(COPY, [str(source), str(work / f"copy{i}")], confined)
            shutil.rmtree(work / f"copy{i}")
            ingest, peak = timed(INGEST, [str(source), str(work / f"zoo{i}"), str(memory // 2)], confined)
            shutil.rmtree(work / f"zoo{i}")
            pairs.append({"copy_s": copy, "ingest_s": ingest, "ratio": ingest / copy, "peak": peak})
            print(f"copy {copy:.1f} s, ingest {ingest:.1f} s, ratio {ingest / copy:.2f}, peak {peak >> 20} MiB")
    finally:
        confined.close()
    return {
        "adapters": adapters,
        "bytes": nbytes,
        "memory": memory,
        "confined": confined.folder is not None,
        "ratio": statistics.median(p["ratio"] for p in pairs),
        "peak": max(p["peak"] for p in pairs),
        "pairs": pairs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=500)
    parser.add_argument("--memory", type=int, default=2 * GIB, help="bytes for each process")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="where to write; needs three times the adapters' bytes")
    parser.add_argument("--out", type=Path, default=Path("ingest_large.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        figures = measure(Path(folder), args.adapters, args.memory, args.repeats)
    held = "page cache included" if figures["confined"] else "by its own setting only"
    print(
        f"\n{figures['adapters']} adapters, {figures['bytes'] / GIB:.2f} GiB, "
        f"{figures['memory'] / GIB:.1f} GiB of memory ({held}): "
        f"ingest takes {figures['ratio']:.2f} times a plain copy (median of {args.repeats}), "
        f"peak {figures['peak'] >> 20} MiB resident"
    )
    args.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
