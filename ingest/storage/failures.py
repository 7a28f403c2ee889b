"""What an object store's failure means for a person: one line, with what to do."""

from __future__ import annotations

import os
import re

from ingest.storage.protocol import shortened

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|The specified bucket does not exist")
_PAST_END = re.compile(r"416 Range Not Satisfiable|Wanted range starting at")

# The first that fits the library's message, or the name of its exception's class.
_MEANINGS: tuple[tuple[re.Pattern[str], str], ...] = (
    (_NO_BUCKET, "there is no such bucket; make it, or give another URL"),
    (re.compile(r"169\.254\.169\.254|metadata\.google|oauth2"), "no credentials; set {credentials}"),
    (re.compile(r"Account must be specified"), "no account; set {credentials}"),
    (
        re.compile(r"InvalidAccessKeyId|SignatureDoesNotMatch|UnauthenticatedError|401 Unauthorized"),
        "the credentials are not accepted; check {credentials}",
    ),
    (re.compile(r"PermissionDeniedError|403 Forbidden"), "access denied; the bucket's policy must let {credentials}"),
    (re.compile(r"builder error"), "the endpoint{endpoint} is plain http; set AWS_ALLOW_HTTP=true if it may be"),
    (re.compile(r"without LOCATION|PermanentRedirect|301 Moved"), "the bucket is in another region; set AWS_REGION"),
    (
        re.compile(r"error sending request|dns error|Connection refused|connect error"),
        "the endpoint{endpoint} cannot be reached; check the network and {variable}",
    ),
    (re.compile(r"timed out|operation timed|Timeout", re.I), "the endpoint{endpoint} does not answer; try again later"),
    (re.compile(r"PreconditionError"), "it was replaced meanwhile; run again"),
    (re.compile(r"status code: 5\d\d"), "the store keeps failing ({status}); try again later"),
    (
        re.compile(r"NotSupported|NotImplemented|not implemented"),
        "it has no conditional writes, which keep two writers apart; use another store",
    ),
)


def explain(url: str, error: Exception, verb: str) -> str:
    """One line: where, what could not be done, why, and the remedy."""
    text = str(error).partition("\n\nDebug source")[0]
    scheme = {"s3a": "s3", "azure": "az", "adl": "az", "abfs": "az", "abfss": "az"}.get(
        url.partition(":")[0], url.partition(":")[0]
    )
    variable = _ENDPOINTS.get(scheme, "the URL")
    endpoint = os.environ.get(variable, "")
    status = re.search(r"status code: ([\w ]{1,40})", text)
    for pattern, meaning in _MEANINGS:
        if pattern.search(f"{type(error).__name__} {text}"):
            return f"{url}: cannot {verb}: " + meaning.format(
                credentials=_CREDENTIALS.get(scheme, "the credentials"),
                endpoint=f" {shortened(endpoint)}" if endpoint else "",
                variable=variable,
                status=status[1] if status else "",
            )
    first = text.partition("\n")[0] or type(error).__name__
    return f"{url}: cannot {verb}: {shortened(first)}; try again, or see the store's own log"


def is_no_bucket(error: Exception) -> bool:
    """Whether the bucket, and not the object, is missing."""
    return _NO_BUCKET.search(str(error)) is not None


def is_past_end(error: Exception) -> bool:
    """Whether a range was asked for that begins at or after the object's end."""
    return _PAST_END.search(str(error)) is not None
