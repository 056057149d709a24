"""The release source: the published files of one version, fetched, proven and cached."""

import atexit
import contextlib
import errno
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Callable, Optional, TypeVar, Union
from urllib.parse import unquote, urlsplit

from supermachine_kernel._version import VERSION

from ..errors import BuildError, WrongContent
from ..lock import LockedAsset, LockedFile, LockedSet
from ..release_layout import BASE, packed_name, release_folder
from .cache import Cache, cache_folder
from .progress import Progress
from .transfer import PATIENCE, Patience, ReleaseHost, Sink, download, is_loopback, refused_content, shown
from .xz import Unpacker

_CHUNK = 1 << 20
_URL = re.compile(r"(https?|file):|.*://", re.IGNORECASE)
"""What is meant as a URL: a folder may have a colon too."""

T = TypeVar("T")


class NotAtHand(BuildError):
    """The files are not in the cache, and SUPERMACHINE_OFFLINE keeps the build from the network."""


def fetch(locked: LockedSet, environ: Mapping[str, str], *, patience: Patience = PATIENCE) -> dict[str, Path]:
    """The unpacked files of the locked set, by asset name, each proven. Raises BuildError.

    They lie in the cache, or, where it cannot be written, in a folder that goes with the process. A download
    that breaks off is resumed by the same process; a killed one leaves nothing that a later build would take.
    """
    cache = Cache(cache_folder(environ))
    files = {name: cache.find(asset.unpacked) for name, asset in locked.assets.items()}
    missing = {name: asset for name, asset in locked.assets.items() if files[name] is None}
    if missing:
        files.update(_fetch_missing(locked.name, missing, cache, environ, patience))
    return {name: path for name, path in files.items() if path is not None}


def _fetch_missing(
    set_name: str, missing: Mapping[str, LockedAsset], cache: Cache, environ: Mapping[str, str], patience: Patience
) -> dict[str, Path]:
    location = parse_base(environ.get("SUPERMACHINE_RELEASE_URL"))
    if is_offline(environ) and isinstance(location, str):
        raise NotAtHand(
            f"{cache.folder}: expected {', '.join(missing)}, found no sound file, and SUPERMACHINE_OFFLINE keeps the "
            f"build from {shown(location)}; unset it, or set SUPERMACHINE_RELEASE_URL to a folder with v{VERSION}/, or "
            "SUPERMACHINE_CACHE_DIR to a filled cache"
        )
    with Progress(sum(asset.packed.size for asset in missing.values())) as progress:
        cache = _writable(cache, progress)
        base = Base(location, environ.get("GITHUB_TOKEN"), patience, progress)

        def job(name: str, asset: LockedAsset) -> Callable[[], Path]:
            return lambda: _into_cache(cache, base, packed_name(set_name, name), asset)

        return in_parallel({name: job(name, asset) for name, asset in missing.items()}, base.stop)


def _into_cache(cache: Cache, base: "Base", name: str, asset: LockedAsset) -> Path:
    """The proven entry, made by this build or, while this one waited, by another."""
    for _ in range(2):
        with cache.alone(asset.unpacked, base.stop, base.patience.total):
            found = cache.find(asset.unpacked)
            if found is not None:
                base.listener.advance(asset.packed.size)
                return found
            if cache.path(asset.unpacked).exists():
                base.listener.note(f"{cache.path(asset.unpacked)}: damaged; fetching it anew")
            with contextlib.suppress(FileNotFoundError):  # the cache was deleted meanwhile
                return _bring_into_cache(cache, base, name, asset)
    raise BuildError(f"{cache.folder}: expected a cache, found it deleted twice while {name} came; build again")


def _bring_into_cache(cache: Cache, base: "Base", name: str, asset: LockedAsset) -> Path:
    def prove(measured: LockedAsset) -> None:
        _compare(measured.packed, asset.packed, "")
        _compare(measured.unpacked, asset.unpacked, " once unpacked")

    base.listener.note(f"fetching {base.where(name)} ({asset.packed.size} bytes)")
    with (
        cache.entry(asset.unpacked) as file,
        Unpacker(file, asset.packed.size, asset.unpacked.size, prove) as unpacker,
    ):
        base.bring(name, unpacker, asset.packed.size)
    base.listener.note(f"fetched {name}: {asset.unpacked.size} bytes, SHA-256 {asset.unpacked.sha256}")
    return cache.path(asset.unpacked)


def _compare(found: LockedFile, locked: LockedFile, when: str) -> None:
    if found.size != locked.size:
        raise WrongContent(f"{locked.size} bytes{when}", f"{found.size} bytes")
    if found.sha256 != locked.sha256:
        raise WrongContent(f"SHA-256 {locked.sha256}{when} (assets.lock.json)", found.sha256)


def _writable(cache: Cache, progress: Progress) -> Cache:
    reason = cache.prepare()
    if reason is None:
        return cache
    folder = Path(tempfile.mkdtemp(prefix="supermachine-kernel-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    progress.note(f"note: {cache.folder} cannot be written ({reason}): what is fetched is kept for this build alone")
    return Cache(folder)


class Base:
    """Where the files of this version are: below a URL (https, http), or in a folder.

    `stop` ends what is under way; `listener` is told how it goes; `given_by` is what names another base.
    """

    def __init__(
        self,
        location: Union[str, Path],
        token: Optional[str],
        patience: Patience,
        listener: Progress,
        given_by: str = "SUPERMACHINE_RELEASE_URL, or build from the tree",
    ) -> None:
        self.location, self.patience, self.listener = location, patience, listener
        self.stop = threading.Event()
        if isinstance(location, str):
            self._host = ReleaseHost(location, token, patience, self.stop, given_by)
            if location.startswith("http:") and not is_loopback(location):
                listener.note(
                    f"warning: {shown(location)} is not encrypted: digests prove what is fetched, but others see it; "
                    f"name an https base with {given_by}"
                )

    def where(self, name: str) -> str:
        """The URL or path of a file, as it may be shown."""
        return shown(self._url(name)) if isinstance(self.location, str) else str(self._path(self.location, name))

    def bring(self, name: str, sink: Sink, size: Optional[int]) -> None:
        """Bring a file, `size` bytes where known, into `sink`. Raises BuildError; and OSError, the sink's own."""
        try:
            if isinstance(self.location, str):
                download(self._host, self._url(name), sink, size, self.listener)
            else:
                self._copy(self._path(self.location, name), sink, size)
        except WrongContent as wrong:
            raise refused_content(self.where(name), wrong) from wrong

    def _url(self, name: str) -> str:
        return f"{self.location}/{release_folder(VERSION)}/{name}"

    def _path(self, folder: Path, name: str) -> Path:
        return folder / release_folder(VERSION) / name

    def _copy(self, path: Path, sink: Sink, size: Optional[int]) -> None:
        try:
            if path.exists() and not path.is_file():
                raise OSError(errno.EINVAL, "no regular file")
            file = path.open("rb")
        except OSError as error:
            raise BuildError(
                f"{path}: expected the published file, found: {error.strerror}; the release base is "
                f"the folder above {release_folder(VERSION)}/"
            ) from error
        with file:
            found = os.fstat(file.fileno()).st_size
            if size is not None and found != size:
                raise WrongContent(f"{size} bytes", f"{found} bytes")
            while chunk := file.read(_CHUNK):
                sink.write(chunk)
                self.listener.advance(len(chunk))
        sink.finish()


def is_offline(environ: Mapping[str, str]) -> bool:
    """Whether SUPERMACHINE_OFFLINE keeps what is done from the network. Raises BuildError."""
    value = environ.get("SUPERMACHINE_OFFLINE", "")
    if value.lower() in ("1", "true", "yes"):
        return True
    if value.lower() in ("", "0", "false", "no"):
        return False
    raise BuildError(
        f"SUPERMACHINE_OFFLINE={value!r}: expected 1, true or yes to keep from the network, or 0, false, no or nothing "
        "to use it, found neither; set it to one of them, or unset it"
    )


def parse_base(text: Optional[str], given_by: str = "SUPERMACHINE_RELEASE_URL") -> Union[str, Path]:
    """The release base that somebody gave: a URL (https, http) or a folder. Raises BuildError."""
    if not text:
        return BASE
    if not _URL.match(text.strip()) and "\0" not in text:
        return Path(text).absolute()
    try:
        parts = urlsplit(text.strip())
        right = parts.port != 0 and not parts.query and not parts.fragment and "\0" not in unquote(text)
    except ValueError:
        right = False
    if right and parts.scheme in ("https", "http") and parts.hostname:
        return parts.geturl().rstrip("/")
    if right and parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return Path(unquote(parts.path))
    raise BuildError(
        f"{given_by}={_without_credentials(text)}: expected an https, http or file URL without a query, or a "
        f"folder, found neither; the default is {BASE}"
    )


def _without_credentials(text: str) -> str:
    """What may be shown of a URL that cannot be parsed."""
    scheme, mark, rest = text.partition("://")
    return repr(scheme + mark + rest.rpartition("@")[2])


def in_parallel(jobs: Mapping[str, Callable[[], T]], stop: threading.Event) -> dict[str, T]:
    """Run up to four jobs at a time; their results by name, or the first error, after which `stop` is set."""
    with ThreadPoolExecutor(4) as pool:
        names = {pool.submit(job): name for name, job in jobs.items()}
        try:
            results = {names[done]: done.result() for done in as_completed(names)}
        except BaseException:
            stop.set()
            raise
    return {name: results[name] for name in jobs}
