"""Calls to the Hub: its limits respected, failures tried again a bounded number of times, refusals in words.

The session, the token, the endpoint, proxies and timeouts are huggingface_hub's.  Why its own retries are not used: a
listing that fails starts again at its first page and has no time limit, a download does not stop at its announced size,
and each thread runs into a rate limit by itself.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ingest.errors import EigenzooError, Refusal
from ingest.hub.answers import explain, retry_after, same_site
from ingest.reasons import Reason

T = TypeVar("T")

SECOND = 1.0
"""What a second of waiting lasts; tests shorten it."""
RETRIES = 5
"""Failures in a row, without a byte in between, after which a call is given up."""
MAX_ATTEMPTS = 50
"""Attempts at one call in all."""
RATE_WAITS = 10
"""Times that one call waits for a rate limit."""
LONGEST_WAIT = 8.0
"""Seconds between two attempts; the first wait is one second, each further one twice as long."""
LONGEST_RATE_WAIT = 900.0
"""Seconds for which a rate limit is waited for; the Hub's own window is 300."""
SILENCES = 12
"""Calls given up in a row, with no answer at all to any, after which the Hub counts as out of reach."""

_AGAIN = frozenset((408, 429, 500, 502, 503, 504, 520, 522, 524, 525, 529))


class Again(Exception):
    """What an answer's reader raises to have the call tried again: the text says what was wrong."""


class Calls:
    """All calls of one session with the Hub; threads share it.

    Attributes
    ----------
    endpoint
        The Hub's address.
    authorized
        Whether a token is sent.
    made
        Calls by kind, "api" or "resolve": what the Hub's limits count.
    """

    def __init__(self) -> None:
        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers

        headers: dict[str, str] = build_hf_headers(library_name="eigenzoo")
        # Sizes and hashes are those of the plain bytes.
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._timeout = float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
        self.endpoint: str = constants.ENDPOINT
        self.authorized = any(key.lower() == "authorization" for key in headers)
        self.made: Counter[str] = Counter()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._free_at: dict[str, float] = {}
        self._silent, self._silence = 0, ""

    def close(self) -> None:
        """End the waits and the reading of all threads; later calls fail."""
        self._closed.set()

    def get(
        self,
        url: str,
        read: Callable[[Any], T],
        *,
        what: str,
        params: Mapping[str, Any] | None = None,
        span: Callable[[], str | None] = lambda: None,
        received: Callable[[], int] = lambda: 0,
    ) -> T:
        """GET and read the answer, again after a failure.

        Parameters
        ----------
        url
            On the Hub.
        read
            Reads a successful answer (a streamed httpx response); raises `Again` for one that is no good.
        what
            The file or list meant, for messages.
        params
            Of the query.
        span
            The Range header, asked before every attempt.
        received
            Bytes kept so far; failures count from anew when they have grown.

        Raises
        ------
        Refusal
            `not-found`, `gated`, `unavailable`.
        Missing
            If the repository has no such file.
        EigenzooError
            If the token is rejected, or nothing answers any more.
        """
        from huggingface_hub import get_session
        from huggingface_hub.errors import HfHubHTTPError

        # The HTTP library's own errors, whichever it is: httpx under huggingface_hub 1, httpx2 under 2.
        broken: type[Exception] = HfHubHTTPError.__bases__[0]
        kind = "api" if urlsplit(url).path.startswith(f"{urlsplit(self.endpoint).path}/api/") else "resolve"
        failures = waits = attempts = had = 0
        problem = ""
        while failures <= RETRIES and waits <= RATE_WAITS and attempts < MAX_ATTEMPTS:
            self._until_free(kind)
            attempts += 1
            answered = False
            pause = min(LONGEST_WAIT, 2.0 ** (failures + waits))
            headers = {**self._headers, **({"Range": value} if (value := span()) else {})}
            try:
                with self._lock:
                    self.made[kind] += 1
                request = get_session().stream(
                    "GET", url, headers=headers, params=params, timeout=self._timeout, follow_redirects=True
                )
                with request as response:
                    answered, self._silent = True, 0
                    status: int = response.status_code
                    limited = self._note(kind, response)
                    if status < 400 or status == 416:
                        return read(response)
                    # A storage site's refusal of a signed address that has run out is mended by a new one.
                    if status not in _AGAIN and same_site(response):
                        raise explain(response, what, self.endpoint)
                    problem = f"it answered {status}"
                    pause = max(pause, min(retry_after(response) or 0.0, LONGEST_RATE_WAIT))
                    if status == 429:
                        waits += 1
                        self._patience(kind, limited or pause)
                        continue
            except Again as error:
                problem = str(error)
            except broken as error:
                problem = str(error) or type(error).__name__
            except RuntimeError as error:
                # The library closes the session that all threads share when it cannot connect.
                if "closed" not in str(error):
                    raise
                problem = str(error)
            now = received()
            failures = 1 if now > had else failures + 1
            had = now
            if failures <= RETRIES:
                self._wait(pause)
            elif not answered:
                self._note_silence(problem)
        raise Refusal(
            Reason.UNAVAILABLE,
            f"{what}: the Hub failed {attempts} times, at last: {problem}; run the same command again",
        )

    def parts(self, response: Any) -> Iterator[bytes]:
        """An answer's body as it comes, until the session is closed."""
        for part in response.iter_bytes():
            self._check_open()
            yield part

    def _note(self, kind: str, response: Any) -> float | None:
        """Heed a limit that is used up before it is overrun; seconds until it is lifted, None while some is left."""
        from huggingface_hub.utils import parse_ratelimit_headers

        # Behind a redirection, it stands on the Hub's own answer.
        for answer in (*response.history, response):
            info = parse_ratelimit_headers(answer.headers)
            if info is not None and info.remaining == 0:
                seconds: float = info.reset_in_seconds + 1.0  # the header is in whole seconds, rounded down
                self._limit(kind, seconds)
                return seconds
        return None

    def _patience(self, kind: str, seconds: float) -> None:
        if seconds > LONGEST_RATE_WAIT:
            raise Refusal(
                Reason.UNAVAILABLE, f"the Hub asks for {seconds:.0f} seconds of patience; run the same command later"
            )
        self._limit(kind, seconds)

    def _limit(self, kind: str, seconds: float) -> None:
        until = time.monotonic() + min(seconds, LONGEST_RATE_WAIT) * SECOND
        with self._lock:
            self._free_at[kind] = max(self._free_at.get(kind, 0.0), until)

    def _until_free(self, kind: str) -> None:
        self._check_open()
        self._check_silence()
        while (left := self._free_at.get(kind, 0.0) - time.monotonic()) > 0:
            self._wait(left / SECOND)

    def _wait(self, seconds: float) -> None:
        self._closed.wait(seconds * SECOND)
        self._check_open()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise EigenzooError("the session with the Hub is over")

    def _note_silence(self, problem: str) -> None:
        with self._lock:
            self._silent += 1
            self._silence = problem
        self._check_silence()

    def _check_silence(self) -> None:
        if self._silent >= SILENCES:
            raise EigenzooError(
                f"{self.endpoint} does not answer ({self._silence}); check the network and HF_ENDPOINT, then run the "
                "same command again: it goes on where it stopped"
            )
