"""The documents of an OCI image: which image is read, what becomes of its configuration, and what is refused."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts.guest.oci_image import ImageError, read_image
from scripts.guest.oci_run import Run, _format, configuration, unpublished_ports
from tests.support.oci_layout import TAG, entry, layer, write

KEYS = st.sampled_from(["manifests", "annotations", "digest", "mediaType", "platform"])
DOCUMENTS = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=8
)


def test_an_image_for_another_machine_is_refused(tmp_path: Path) -> None:
    layout = write(tmp_path / "layout", [layer(entry("a"))], {}, architecture="amd64")
    with pytest.raises(ImageError, match="expected an image for linux/arm64, found one for linux/amd64"):
        read_image(str(layout))


def test_a_tag_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    layout = write(tmp_path / "layout", [layer(entry("a"))], {}, tag="stable")
    with pytest.raises(ImageError, match=r"expected the tag other, found 1 images: stable; name one as LAYOUT:TAG"):
        read_image(f"{layout}:other")
    assert len(read_image(f"{layout}:stable").layers) == 1


@pytest.mark.parametrize("name", ["index.json", "manifest", "config"])
def test_a_document_that_is_none_is_one_line(name: str, tmp_path: Path) -> None:
    layout = write(tmp_path / "layout", [layer(entry("a"))], {})
    if name == "index.json":
        (layout / name).write_text("{")
    else:
        index = json.loads((layout / "index.json").read_text())
        digest = index["manifests"][0]["digest"].partition(":")[2]
        if name == "config":
            digest = json.loads((layout / "blobs/sha256" / digest).read_text())["config"]["digest"].partition(":")[2]
        (layout / "blobs" / "sha256" / digest).write_text("[]")
    with pytest.raises(ImageError, match="make the image again"):
        read_image(str(layout))


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | DOCUMENTS.map(lambda document: json.dumps(document).encode()))
def test_no_index_is_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("layout")
    (folder / "index.json").write_bytes(content)
    with pytest.raises(ImageError):
        read_image(str(folder))


def _write_as(layout: Path, change: Callable[[str, Any], Any]) -> None:
    """Have each document of a layout, from the config up, be what `change` makes of it, with digests that fit."""
    blobs = layout / "blobs/sha256"
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads((blobs / index["manifests"][0]["digest"].partition(":")[2]).read_text())
    config = json.loads((blobs / manifest["config"]["digest"].partition(":")[2]).read_text())

    def blob(document: Any) -> dict[str, Any]:
        content = json.dumps(document).encode()
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    platform = {"os": "linux", "architecture": "arm64"}
    manifest["config"] = blob(change("config", config))
    inner = {"manifests": [{**blob(change("manifest", manifest)), "platform": platform}]}
    annotations = {"org.opencontainers.image.ref.name": TAG}
    kind = "application/vnd.oci.image.index.v1+json"
    outer = {"manifests": [{**blob(change("inner", inner)), "mediaType": kind, "annotations": annotations}]}
    (layout / "index.json").write_text(json.dumps(change("outer", outer)))


def _paths(document: Any, *, to: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield to
    pairs = document.items() if isinstance(document, dict) else enumerate(document) if type(document) is list else ()
    for key, inner in pairs:
        yield from _paths(inner, to=(*to, key))


def _changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copied = list(document) if isinstance(document, list) else dict(document)
    copied[path[0]] = _changed(document[path[0]], path[1:], value)
    return copied


def _change_in(name: str, path: tuple[Any, ...], value: Any) -> Callable[[str, Any], Any]:
    return lambda each, found: _changed(found, path, value) if each == name else found


@pytest.mark.parametrize("value", [1, "\x1b[2J", [1], {"a": 1}, "\ud800", "a\0b", [["a"]], None], ids=ascii)
def test_a_document_with_anything_in_any_place_is_read_or_refused_in_one_line(value: Any, tmp_path: Path) -> None:
    process: dict[str, Any] = {"Entrypoint": ["/a"], "Cmd": ["b"], "Env": ["A=b"], "WorkingDir": "/", "User": "0"}
    process["ExposedPorts"] = {"80/tcp": {}}
    layout = write(tmp_path / "layout", [layer(entry("a"))], process)
    documents: dict[str, Any] = {}
    _write_as(layout, lambda name, document: documents.setdefault(name, document))
    refused = 0
    for name, path in [(name, path) for name, document in documents.items() for path in _paths(document)]:
        write(layout, [layer(entry("a"))], process)
        _write_as(layout, _change_in(name, path, value))
        try:
            with read_image(f"{layout}:{TAG}") as image:
                _format(configuration(image.config, Run())).encode()
                unpublished_ports(image.config, {})
        except ImageError as error:
            refused += 1
            assert str(error).isprintable(), error
    assert refused > 10


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_a_docker_image_in_a_folder_has_no_file_outside_of_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("{}")
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps([{"Config": name, "Layers": ["a"], "RepoTags": 5}]))
    with pytest.raises(ImageError, match="expected a file of the image, found one outside of it"):
        read_image(str(folder))


def test_links_in_an_archive_that_lead_in_a_circle_are_refused(tmp_path: Path) -> None:
    circle = layer(
        entry("manifest.json", tarfile.SYMTYPE, linkname="other"),
        entry("other", tarfile.SYMTYPE, linkname="manifest.json"),
    )
    (tmp_path / "image.tar").write_bytes(circle)
    with pytest.raises(ImageError, match="expected a file of the image, found nothing"):
        read_image(str(tmp_path / "image.tar"))


def test_a_folder_that_is_no_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"expected an OCI layout or a docker archive, found neither index\.json nor"):
        read_image(str(tmp_path))
    with pytest.raises(ImageError, match="expected a layout folder or an archive, found No such file"):
        read_image(str(tmp_path / "none"))
    with pytest.raises(ImageError, match="expected the path of an image, found an empty one"):
        read_image("")


def test_a_command_takes_the_place_of_cmd_and_not_of_the_entrypoint() -> None:
    config = {"Entrypoint": ["/entry"], "Cmd": ["default"], "Env": ["A=b", "none"], "User": "app", "WorkingDir": "/w"}
    assert configuration(config, Run())[:2] == [("arg", "/entry"), ("arg", "default")]
    settings = configuration(config, Run(command=["other", "words"]))
    assert settings[:6] == [
        ("arg", "/entry"), ("arg", "other"), ("arg", "words"), ("env", "A=b"), ("cwd", "/w"), ("user", "app")
    ]  # fmt: skip
    with pytest.raises(ImageError, match="expected an Entrypoint or a Cmd, found neither"):
        configuration({}, Run())


def test_each_exposed_port_that_is_not_published_is_told_with_how_it_would_be() -> None:
    exposed: dict[str, Any] = {
        name: {} for name in ("8080", "443/tcp", "80/tcp", "80", "53/udp", "132/sctp", "65535/tcp", "22/tcp")
    }
    assert unpublished_ports({"ExposedPorts": exposed}, {22: 2222, 8080: 80, 53: 53}) == [
        "the image exposes 80/tcp: --port HOST:80 publishes it",
        "the image exposes 443/tcp: --port HOST:443 publishes it",
        "the image exposes 65535/tcp: --port HOST:65535 publishes it",
        "the image exposes 53/udp, 132/sctp: --port publishes TCP alone",
    ]
    assert unpublished_ports({"ExposedPorts": {"22/tcp": {}}}, {22: 2222}) == []
    assert unpublished_ports({"ExposedPorts": None}, {}) == unpublished_ports({}, {}) == []


@pytest.mark.parametrize("exposed", [["80/tcp"], "80", 80, True], ids=str)
def test_exposed_ports_that_are_no_object_are_refused(exposed: object) -> None:
    with pytest.raises(
        ImageError, match=r"^the image: ExposedPorts: expected an object, found .*; make the image again$"
    ):
        unpublished_ports({"ExposedPorts": exposed}, {})


@pytest.mark.parametrize(
    "text", ["0", "65536", "70000/tcp", "80/foo", "80/", "80-90/tcp", "x", "", "-1", "8" * 5000, "80/tcp\n", "\u0668"]
)
def test_an_exposed_port_that_is_none_is_refused(text: str) -> None:
    expected = "the image: ExposedPorts: expected ports from 1 to 65535, such as 80/tcp, found "
    with pytest.raises(ImageError) as caught:
        unpublished_ports({"ExposedPorts": {"80": {}, text: {}}}, {})
    assert str(caught.value) == f"{expected}{ascii(text)[:100]}; make the image again"
