"""Describe what requests and urllib3 raise: they wrap the system's message in several of their own."""

import http.client
import os
import ssl
from typing import Optional

import requests
import urllib3

from .session import RedirectError

NETWORK_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)
"""All that a request can end in; ValueError is for URLs, proxies, headers and netrc files that cannot be used."""

_MIRROR_CURE = "repair the mirror or proxy, or name another with {setting}"
_PROXIES = "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY"


def lasting_fault(error: Exception) -> Optional[tuple[str, str, str]]:
    """What was expected, what was found, and what to do, where a second try would end the same; else None."""
    cause = _innermost(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        found = (cause.verify_message or str(cause)).rstrip(".")
        return "a certificate that fits", found, "name the authority's certificate with REQUESTS_CA_BUNDLE"
    if isinstance(error, requests.exceptions.SSLError) or "CA certificate bundle" in str(error):
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or ""
        if bundle and not _is_ca_bundle(bundle):
            cure = "name a file of certificates in PEM, or unset it"
            return "a bundle of certificates in REQUESTS_CA_BUNDLE", f"{bundle}, which is none", cure
    if isinstance(error, RedirectError):
        return error.expected, error.found, _MIRROR_CURE
    if isinstance(error, requests.TooManyRedirects):
        return "at most 10 redirects", "more", _MIRROR_CURE
    if isinstance(error, requests.exceptions.InvalidHeader):
        return "one Content-Length", "several that differ", _MIRROR_CURE
    if isinstance(error, requests.exceptions.InvalidSchema) and "SOCKS" in str(error):
        return (
            "an http or https proxy",
            "a SOCKS proxy",
            f"name another in {_PROXIES}, or exempt the host with NO_PROXY",
        )
    if isinstance(error, UnicodeDecodeError):
        return "a netrc file in UTF-8", "another encoding", "save it in UTF-8 (NETRC names it, else ~/.netrc)"
    if isinstance(error, ValueError):  # its text may hold a password
        by_user = isinstance(error, UnicodeEncodeError)
        found = "a user or password that is not Latin-1" if by_user else "one that cannot be parsed"
        cure = f"check it, and {_PROXIES}; in a password, percent-encode what is no letter or digit"
        return "a URL that can be asked", found, cure
    return None


def describe(error: Exception) -> str:
    """What went wrong with a connection, in a few words."""
    cause = _innermost(error)
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
    return ("the proxy: " if isinstance(error, requests.exceptions.ProxyError) else "") + text[:200].lower()


def _is_ca_bundle(path: str) -> bool:
    folder = os.path.isdir(path)
    try:
        context = ssl.create_default_context(capath=path) if folder else ssl.create_default_context(cafile=path)
    except OSError:  # ssl.SSLError among them
        return False
    return folder or bool(context.get_ca_certs())


def _innermost(error: BaseException) -> BaseException:
    """Return the error that all the others were made of."""
    inner = (getattr(error, "reason", None), error.__cause__, *error.args, error.__context__)
    cause = next((one for one in inner if isinstance(one, BaseException)), None)
    return error if cause is None else _innermost(cause)
