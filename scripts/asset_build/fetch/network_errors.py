"""Describe what requests and urllib3 raise: they wrap the system's message in several of their own."""

import http.client
import os
import ssl
from typing import Optional

import requests
import urllib3

NETWORK_ERRORS = (OSError, ValueError, urllib3.exceptions.HTTPError, http.client.HTTPException)
"""All that a request can end in. The errors of requests are OSErrors, and ValueErrors are raised for URLs, proxies,
headers and netrc files that cannot be used."""

_PROXIES = "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY"


class DownloadError(Exception):
    """A file cannot be had, and another try would end the same.

    `cure` says what to do; `{setting}` in it stands for how another release base is named.
    """

    def __init__(
        self, expected: str, found: str, cure: str = "repair the mirror or proxy, or name another with {setting}"
    ) -> None:
        super().__init__(expected, found, cure)
        self.expected, self.found, self.cure = expected, found, cure


def lasting_fault(error: Exception) -> Optional[DownloadError]:
    """What is wrong where a second try would end the same; else None."""
    cause = _innermost(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        found, cure = cause.verify_message or str(cause), "name the authority's certificate with REQUESTS_CA_BUNDLE"
        return DownloadError("a certificate that fits", found.rstrip("."), cure)
    if isinstance(error, requests.exceptions.SSLError) or "CA certificate bundle" in str(error):
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or ""
        if bundle and not _is_ca_bundle(bundle):
            cure = "name a file of certificates in PEM, or unset it"
            return DownloadError("a bundle of certificates in REQUESTS_CA_BUNDLE", f"{bundle}, which is none", cure)
    if isinstance(error, requests.TooManyRedirects):
        return DownloadError("at most 10 redirects", "more")
    if isinstance(error, requests.exceptions.InvalidHeader):
        return DownloadError("one Content-Length", "several that differ")
    if isinstance(error, requests.exceptions.InvalidSchema) and "SOCKS" in str(error):
        cure = f"name another in {_PROXIES}, or exempt the host with NO_PROXY"
        return DownloadError("an http or https proxy", "a SOCKS proxy", cure)
    if isinstance(error, UnicodeDecodeError):
        cure = "save it in UTF-8 (NETRC names it, else ~/.netrc)"
        return DownloadError("a netrc file in UTF-8", "another encoding", cure)
    if isinstance(error, ValueError):  # its text may hold a password
        by_user = isinstance(error, UnicodeEncodeError)
        found = "a user or password that is not Latin-1" if by_user else "one that cannot be parsed"
        cure = f"check it, and {_PROXIES}; in a password, percent-encode what is no letter or digit"
        return DownloadError("a URL that can be asked", found, cure)
    return None


def describe(error: Exception) -> str:
    """What went wrong with a connection, in a few words."""
    cause = _innermost(error)
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
    return ("the proxy: " if isinstance(error, requests.exceptions.ProxyError) else "") + text[:200].lower()


def _is_ca_bundle(path: str) -> bool:
    if os.path.isdir(path):
        return True
    try:
        return bool(ssl.create_default_context(cafile=path).get_ca_certs())
    except OSError:  # ssl.SSLError among them
        return False


def _innermost(error: BaseException) -> BaseException:
    """Return the error that all the others were made of."""
    inner = (getattr(error, "reason", None), error.__cause__, *error.args, error.__context__)
    cause = next((one for one in inner if isinstance(one, BaseException)), None)
    return error if cause is None else _innermost(cause)
