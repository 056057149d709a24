"""The release base that SUPERMACHINE_RELEASE_URL names, and what may be shown of a URL."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Optional, Union
from urllib.parse import unquote, urlsplit

from ..errors import BuildError, printable
from ..release_layout import BASE

_URL = re.compile(r"(https?|file):|.*://", re.IGNORECASE)
"""What is meant as a URL: a folder may have a colon too."""


def parse_location(text: Optional[str], setting: str = "SUPERMACHINE_RELEASE_URL") -> Union[str, Path]:
    """The release base that somebody gave: a URL (https, http) or a folder. Raises BuildError."""
    if not text:
        return BASE
    if not _URL.match(text.strip()) and "\0" not in text:
        return Path(text).absolute()
    parts, usable = urlsplit(""), False
    with contextlib.suppress(ValueError):
        parts = urlsplit(text.strip())
        usable = parts.port != 0 and not parts.query and not parts.fragment and "\0" not in unquote(text)
    if usable and parts.scheme in ("https", "http") and parts.hostname:
        return parts.geturl().rstrip("/")
    if usable and parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return Path(unquote(parts.path))
    expected = "an https, http or file URL without a query, or a folder"
    raise BuildError(f"{setting}={_without_secrets(text)!r}", expected, "neither", f"the default is {BASE}")


def is_offline(environ: Mapping[str, str]) -> bool:
    """Whether SUPERMACHINE_OFFLINE keeps what is done from the network. Raises BuildError."""
    value = environ.get("SUPERMACHINE_OFFLINE", "")
    if value.lower() in ("1", "true", "yes"):
        return True
    if value.lower() in ("", "0", "false", "no"):
        return False
    expected = "1, true or yes to keep from the network, or 0, false, no or nothing to use it"
    raise BuildError(f"SUPERMACHINE_OFFLINE={value!r}", expected, "neither", "set it to one of them, or unset it")


def display_url(url: str) -> str:
    """The URL as it may be shown: without user and password, and without a query, which may be a signature."""
    parts = urlsplit(url)
    return printable(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl())


def _without_secrets(text: str) -> str:
    """What may be shown of a URL that perhaps cannot be parsed: neither a password nor a query."""
    _, scheme, rest = re.split(r"^([a-z0-9+.-]*:(?://)?|)", text.strip(), maxsplit=1, flags=re.IGNORECASE)
    return str(scheme) + re.split(r"[?#]", rest.rpartition("@")[2], maxsplit=1)[0]
