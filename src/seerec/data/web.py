"""Asking web servers: https alone, and patience with what may pass by itself.

A fault that may pass (a dropped connection, a busy server) is waited out a bounded number of times, longer after each,
and at least as long as the server asks.
"""

import json
import re
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPMessage, HTTPResponse
from time import sleep
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from seerec.errors import SeerecError
from seerec.progress import Bar
from seerec.terminal import printable

_LARGEST_DOCUMENT = 1 << 26  # bytes
_SILENCE = 60.0  # seconds without a byte after which a connection counts as dropped
_TRIES_DOCUMENT = 4  # nothing has begun yet: whoever is offline should hear it soon
_LONGEST_PAUSE = 60.0  # seconds between two tries, unless the server asks for more
_LONGEST_WAIT = 900.0  # seconds a server may ask for
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_PASSING = {408, 425, 429}  # and every 5xx


class RefusedError(SeerecError):
    """The server has this file or list no more, or not for us."""


class FaultError(Exception):
    """What may pass by itself.

    Parameters
    ----------
    wait
        Seconds that the server asks to wait.
    from_zero
        The beginning that is already here cannot be continued.
    """

    def __init__(self, cause: str, wait: float = 0.0, from_zero: bool = False) -> None:
        super().__init__(cause)
        self.wait, self.from_zero = wait, from_zero


def require_https(url: str, origin: str | None = None) -> None:
    """Refuse an address that is not https; http is for loopback, and there only when ``origin`` is such an address too.

    Raises
    ------
    SeerecError
        It is anything else.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname in _LOOPBACK and (origin is None or urlsplit(origin).scheme == "http"):
        return
    cause = f"{origin or 'The download'} leads to {url}, which is not https."
    raise SeerecError(cause, "Check the network: something between here and the publisher redirects.")


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, to https alone; the range that is asked for goes along."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        try:
            require_https(newurl, req.full_url)
        except SeerecError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def ask(url: str, headers: dict[str, str]) -> HTTPResponse:
    """The beginning of an answer, after redirects.

    Raises
    ------
    FaultError
        What may pass.
    SeerecError
        What will not; `RefusedError` where the server says so.
    """
    require_https(url)
    request = Request(url, headers={"User-Agent": "seerec", "Accept-Encoding": "identity", **headers})
    try:
        return build_opener(_Redirects).open(request, timeout=_SILENCE)
    except HTTPError as error:
        with error:
            raise _refusal(url, error) from error
    except (HTTPException, OSError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            cause = f"The certificate of {urlsplit(url).hostname} does not hold: {reason.verify_message}."
            raise SeerecError(cause, "Check this machine's clock and its certificates.") from error
        raise FaultError(f"cannot be reached ({reason_of(reason)})") from error


def reason_of(error: BaseException | str) -> str:
    """What went wrong with a connection, in the system's words and without its number."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _refusal(url: str, error: HTTPError) -> Exception:
    said = f"{error.code} {error.reason}".strip()
    if error.code == 416:
        return FaultError(f"answers {said}", from_zero=True)
    if error.code in _PASSING or error.code >= 500:
        return FaultError(f"answers {said}", wait=_asked_pause(error.headers.get("Retry-After", "")))
    return RefusedError(f"{url} answers {said}.", "See the data set's home page for where it is now.")


def _asked_pause(value: str) -> float:
    """Seconds of a ``Retry-After``, which is a number or a date; 0 without one."""
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()


class Patience:
    """Counts the faults since something last went well, and waits longer after each."""

    def __init__(self, url: str, tries: int, bar: Bar) -> None:
        self._host, self._tries, self._bar, self._faults = urlsplit(url).hostname, tries, bar, 0

    def reset(self) -> None:
        """Something went well."""
        self._faults = 0

    def wait(self, fault: FaultError) -> None:
        """Wait after a fault. Raises SeerecError when that is enough."""
        fix = "Check the network and run the same command again: it goes on with what has arrived."
        self._faults += 1
        if self._faults >= self._tries:
            raise SeerecError(f"{self._host} {fault}, {self._faults} times in a row.", fix) from fault
        if fault.wait > _LONGEST_WAIT:
            asked = f"{self._host} {fault} and asks to wait {fault.wait / 60:.0f} minutes."
            raise SeerecError(asked, "Run the same command again then: it goes on with what has arrived.") from fault
        pause = max(fault.wait, min(2.0 ** (self._faults - 1), _LONGEST_PAUSE))
        self._bar.note(printable(f"{self._host} {fault}; trying again in {pause:.0f} s"))
        sleep(pause)


def document(url: str, bar: Bar) -> tuple[Any, str | None]:
    """A JSON document, and the address of its next page if there is one.

    Raises
    ------
    SeerecError
        The server cannot be reached, or (as `RefusedError`) has no such document.
    """
    patience = Patience(url, _TRIES_DOCUMENT, bar)
    while True:
        try:
            with ask(url, {"Accept": "application/json"}) as response:
                return _json(response), _next_page(response, url)
        except FaultError as fault:
            patience.wait(fault)


def _json(response: HTTPResponse) -> Any:
    try:
        return json.loads(response.read(_LARGEST_DOCUMENT))
    except ValueError as error:  # also where the connection ended early
        raise FaultError("answers something other than JSON") from error
    except (HTTPException, OSError) as error:
        raise FaultError(f"drops the connection ({reason_of(error)})") from error


def _next_page(response: HTTPResponse, url: str) -> str | None:
    found = re.search(r'<([^>]+)>[^,<]*;\s*rel="?next\b', response.headers.get("Link", ""))
    if found is None:
        return None
    following = urljoin(url, found[1])
    require_https(following, url)
    return following
