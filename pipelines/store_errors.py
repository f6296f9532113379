"""What went wrong with a request to an object store: whether to try again, and how to tell it."""

import errno
import re

from aiohttp import ClientError
from botocore.exceptions import BotoCoreError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as NoConnection
from botocore.parsers import ResponseParserError

REQUEST_ERRORS = (OSError, BotoCoreError, ClientError)
"""All that s3fs raises when a request fails."""
_BUSY_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_BUSY_CODES = {"RequestTimeout", "SlowDown", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
_REPLACED = 412
_URL_USER, _URL_QUERY = re.compile(r"(?<=://)[^\s/@\"']+@"), re.compile(r"(?<=[\w/])\?[^\s\"']+")
_MAX_DETAIL = 300


class UnsoundAnswerError(ConnectionError):
    """The store's answer is not one to what was asked."""


class UploadLostError(ConnectionError):
    """The store does not know an upload that was begun, as after an answer that was lost on its way."""


def is_transient(error: BaseException) -> bool:
    """Worth another try: time-outs, lost connections, broken answers, a store that is busy or out of order."""
    status, code, _ = answer_of(error)
    if status:
        return status in _BUSY_STATUS or code in _BUSY_CODES
    broken = (NoConnection, HTTPClientError, IncompleteReadError, ResponseParserError, ClientError)
    return isinstance(error, (ConnectionError, TimeoutError, *broken))


def answer_of(error: BaseException) -> tuple[int, str, str]:
    """Status, code and message of the answer that s3fs made an error of; (0, "", "") if there was none."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    if not isinstance(response, dict):
        return 0, "", ""
    told = response.get("Error", {})
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return status, str(told.get("Code", "")), str(told.get("Message", ""))


def told(error: BaseException, url: str, *, tries: int, seconds: float) -> OSError:
    """The error as whoever runs a job should see it."""
    status, code, _ = answer_of(error)
    detail = detail_of(error)
    if code == "NoSuchUpload":
        return UploadLostError(f"{url}: the upload was cut off ({detail}); start the same command again")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, f"no such object or bucket ({detail})", url)
    if isinstance(error, PermissionError) or status in (401, 403):
        remedy = "check the credentials, and what they may do there"
        return PermissionError(errno.EACCES, f"the store refuses ({detail}); {remedy}", url)
    if status == _REPLACED:
        return OSError(errno.ESTALE, "the object was written anew while it was read; start the same command again", url)
    if is_transient(error):
        return ConnectionError(
            f"got no sound answer from the store for {url}: {tries} tries in {seconds:.0f} s, the last: {detail}; "
            "check the store, the network and AWS_ENDPOINT_URL, then start the same command again"
        )
    if status or isinstance(error, OSError):
        return OSError(getattr(error, "errno", None) or errno.EIO, detail, url)
    return ConnectionError(
        f"cannot ask the store for {url}: {detail}; check AWS_ENDPOINT_URL, the region and the credentials"
    )


def detail_of(error: BaseException) -> str:
    """What happened, on one line, without the parts of URLs that may hold secrets."""
    status, code, message = answer_of(error)
    text = f"{status} {code}: {message}" if status else f"{type(error).__name__}: {error}".removesuffix(": ")
    text = _URL_QUERY.sub("", _URL_USER.sub("", " ".join(text.split())))
    return text if len(text) <= _MAX_DETAIL else f"{text[:_MAX_DETAIL]} …"
