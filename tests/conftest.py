"""What tests of several folders share."""

from tests.hub import hub
from tests.s3 import s3_server, s3_url

__all__ = ["hub", "s3_server", "s3_url"]
