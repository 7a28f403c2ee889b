"""One writer at a time where there are no locks: a lease, kept alive, and taken over when it is left behind.

The lease is an object that says who writes.  Every change of it is a put on the condition that it is still as last
seen, so of two that want it one succeeds, and who lost it learns so by its next renewal.  A holder renews it every
`HEARTBEAT_SECONDS` from a thread of its own.

Taken over is what was not renewed for `LEASE_SECONDS`, or what a process of this machine held that runs no more; and
then only if it does not move while it is watched, since clocks differ and machines are cloned.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

from ingest.errors import EigenzooError
from ingest.storage.protocol import ABSENT, LOCK, Conflict, shortened

LEASE_SECONDS = 60.0
"""A lease that was not renewed for so long is left behind."""

HEARTBEAT_SECONDS = 15.0
"""How often a holder renews it."""

DAMAGED = "damaged"
"""The state of a lease that cannot be read: watched like one left behind, and then unclean."""

Put = Callable[[str, bytes, str], str]

_log = logging.getLogger("eigenzoo")  # without a handler, Python shows its warnings on stderr


class Lease:
    """The right to write, in one object.

    Parameters
    ----------
    url
        Of the storage, for messages.
    read
        Name → bytes and version.
    put
        Writes on a condition, and knows in the end whether it happened.
    put_once
        The same as it comes, `Conflict` for any conflict.
    """

    def __init__(self, url: str, read: Callable[[str], tuple[bytes, str]], put: Put, put_once: Put) -> None:
        self._url, self._read, self._put, self._put_once = url, read, put, put_once
        self._owner = ""
        self._token = ""
        self._renewed = 0.0
        self._lost: Conflict | None = None
        self._guard = threading.RLock()
        self._stop = threading.Event()

    def acquire(self) -> bool:
        """Take the lease; True if who had it last did not give it back clean.

        Raises
        ------
        EigenzooError
            If somebody has it, or the store does not keep to conditions.
        """
        with self._guard:
            if self._owner:
                raise EigenzooError(_busy(self._url, self._ticket("held"), 0.0))
            dirty = self._take()
            try:
                self._prove()
            except BaseException:
                self.release(not dirty)
                raise
            self._stop = threading.Event()
            threading.Thread(target=self._beat, args=(self._stop,), name=f"lease of {self._url}", daemon=True).start()
            return dirty

    def renew(self) -> None:
        """Renew it.

        Raises
        ------
        Conflict
            If somebody else has taken it.
        EigenzooError
            If it is not held, or the store cannot be reached.
        """
        with self._guard:
            if not self._owner:
                raise EigenzooError(f"{self._url}: not open for writing")
            self._raise_if_lost()
            for _ in range(3):
                begun = _now()
                try:
                    self._token = self._put(LOCK, _dumps(self._ticket("held")), self._token)
                except Conflict:
                    if self._still_mine():  # an earlier renewal that seemed to fail
                        continue
                    self._lost = Conflict(
                        f"{self._url}: this writer did not renew its lease for too long, another took over; run again"
                    )
                    raise self._lost from None
                self._renewed = begun
                return
            raise EigenzooError(f"{self._url}: the lease cannot be renewed; run again")

    def check(self) -> None:
        """Nothing if it is not held; else see that it is not near its end.  No request as a rule."""
        with self._guard:
            if not self._owner:
                return
            self._raise_if_lost()
            if _now() - self._renewed > LEASE_SECONDS / 2:
                self.renew()

    def release(self, clean: bool) -> None:
        """Give it back.  One that was lost is another's already, and stays as it is."""
        self._stop.set()
        with self._guard:
            if not self._owner:
                return
            try:
                if self._lost is None:
                    self._put(LOCK, _dumps(self._ticket("free" if clean else "unclean")), self._token)
            except Conflict:
                pass
            except EigenzooError:
                if clean:
                    raise  # else whatever stopped the writer is what there is to say
            finally:
                self._owner, self._lost = "", None

    def _still_mine(self) -> bool:
        try:
            found, token = self._read(LOCK)
        except FileNotFoundError:
            return False
        if _parse(found)["owner"] != self._owner:
            return False
        self._token = token
        return True

    def _take(self) -> bool:
        for _ in range(4):
            expect, dirty = ABSENT, False
            with suppress(FileNotFoundError):
                found, expect = self._read(LOCK)
                dirty = self._may_take(_parse(found), expect)
            begun, self._owner = _now(), uuid.uuid4().hex
            try:
                self._token = self._put(LOCK, _dumps(self._ticket("held")), expect)
            except Conflict:
                self._owner = ""  # somebody was quicker: see who
                continue
            except BaseException:
                self._owner = ""
                raise
            self._renewed = begun
            return dirty
        raise EigenzooError(f"{self._url}: several processes want to write to this zoo; run again when they are done")

    def _may_take(self, ticket: dict[str, Any], token: str) -> bool:
        """Whether the last holder left it unclean; raises if it has not left it."""
        if ticket["state"] not in ("held", DAMAGED):
            return bool(ticket["state"] != "free")
        age = time.time() - ticket["time"]
        if ticket["state"] == "held" and abs(age) <= LEASE_SECONDS and not _has_ended(ticket):
            raise EigenzooError(_busy(self._url, ticket, age))
        seconds = 1.5 * HEARTBEAT_SECONDS
        _log.warning("%s", _watched(self._url, ticket, seconds))
        time.sleep(seconds)
        found, now = self._read(LOCK)
        if now != token:
            raise EigenzooError(_busy(self._url, _parse(found), 0.0))
        return True

    def _prove(self) -> None:
        """See that the store keeps to conditions: one that ignores them would let two writers in."""
        old = self._token
        self.renew()
        for expect in (ABSENT, old):
            with suppress(Conflict):
                self._token = self._put_once(LOCK, _dumps(self._ticket("held")), expect)
                raise EigenzooError(
                    f"{self._url}: this store ignores conditional writes, which keep two writers apart; use another"
                )

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            with self._guard:
                if stop.is_set():
                    return
                try:
                    self.renew()
                except Conflict:
                    return  # noted: the writer learns it by its next write
                except (EigenzooError, OSError):
                    continue  # the store may come back before the lease ends

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise self._lost

    def _ticket(self, state: str) -> dict[str, Any]:
        return {
            "state": state,
            "owner": self._owner,
            "turn": uuid.uuid4().hex,  # no two are equal: versions may be digests of the bytes
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "time": time.time(),
        }


def _dumps(ticket: dict[str, Any]) -> bytes:
    return json.dumps(ticket).encode()


def is_free(data: bytes) -> bool:
    """Whether a lease's bytes say that nobody is writing and nothing is left to clear up."""
    return bool(_parse(data)["state"] == "free")


def _parse(data: bytes) -> dict[str, Any]:
    """A ticket; one that cannot be read says nothing of its holder, who may be writing all the same."""
    try:
        ticket = json.loads(data)
        return {
            "state": str(ticket["state"]),
            "owner": str(ticket["owner"]),
            "host": str(ticket["host"]),
            "machine": str(ticket["machine"]),
            "pid": int(ticket["pid"]),
            "started": int(ticket["started"]),
            "time": float(ticket["time"]),
        }
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return {"state": DAMAGED, "owner": "", "host": "unknown", "machine": "", "pid": 0, "started": 0, "time": 0.0}


def _busy(url: str, ticket: dict[str, Any], age: float) -> str:
    who = f"{shortened(ticket['host'])}, process {ticket['pid']}, heard of {max(age, 0):.0f} s ago"
    return f"{url}: another process is writing to this zoo ({who}); wait for it to end, then run again"


def _watched(url: str, ticket: dict[str, Any], seconds: float) -> str:
    if ticket["state"] == DAMAGED:
        why = f"its {LOCK} is damaged"
    else:
        why = f"its last writer ({shortened(ticket['host'])}, process {ticket['pid']}) did not close it"
    return f"{url}: {why}; watching for {seconds:.0f} s whether somebody is writing"


def _now() -> float:
    """A clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@lru_cache(maxsize=1)
def _machine() -> str:
    """This boot of this machine and its space of process numbers; empty where that cannot be told."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> int:
    """When a process began, in ticks since the boot; 0 if none of that number runs, or it cannot be told."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            facts = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if facts[0] in (b"Z", b"X") else int(facts[19])


def _has_ended(ticket: dict[str, Any]) -> bool:
    """Whether the holder is known to run no more; of other machines nothing is known."""
    if not ticket["machine"] or ticket["machine"] != _machine():
        return False
    return bool(_started(ticket["pid"]) != ticket["started"])
