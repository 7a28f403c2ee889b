"""The exceptions a user sees."""

from __future__ import annotations

from ingest.reasons import Reason

_LONGEST = 400


class EigenzooError(Exception):
    """An error whose message is one line for the user: what, where, what to do."""


class Refusal(EigenzooError):
    """One adapter that is not taken, with the code and the particulars that the ledger records.

    Parameters
    ----------
    reason
        The code; see `ingest.reasons.Reason`.
    detail
        One line naming the file, tensor or setting, the value found and, where there is one, the remedy; line
        breaks become spaces, beyond 400 characters it is cut.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        # Keys and settings come from strangers' files: whatever they hold, the ledger gets one short line.
        detail = " ".join(detail.splitlines())
        if len(detail) > _LONGEST:
            detail = f"{detail[: _LONGEST - 1]}…"
        # Both arguments reach `args`, so that the exception survives pickling between processes.
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"

    def bare(self) -> Refusal:
        """Itself without its traceback and causes, which would keep alive all that was at hand where it was raised."""
        self.__traceback__ = self.__context__ = self.__cause__ = None
        return self
