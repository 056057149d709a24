"""The steps of a small Dockerfile, run in clean roots in place of its base images."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support import clean_root


def build(
    dockerfile: Path, context: Path, folder: Path, *, prepare: Callable[[Path], object] = lambda root: None
) -> Path:
    """Run every step; the root folder of the last stage, in `folder`. Raises ValueError at a step unknown here.

    `prepare` is called with the root folder of each base image, before the first step in it.
    """
    stages: dict[str, Path] = {}
    variables: dict[str, str] = {}
    root = folder
    for step, rest in _steps(dockerfile.read_text()):
        if step == "FROM":
            image, _, name = rest.partition(" AS ")
            root = stages[name] = _base(image, folder / f"stage-{len(stages)}")
            prepare(root)
            variables = {}
        elif step == "ENV":
            name, _, value = rest.partition("=")
            variables[name] = value
        elif step == "RUN":
            clean_root.run_in(root, "/bin/sh", "-c", rest, **variables)
        elif step == "COPY":
            *options, source, target = rest.split()
            origin = stages[options[0][len("--from=") :]] if options else context
            copy = shutil.copytree if (origin / source.strip("/")).is_dir() else shutil.copy
            copy(origin / source.strip("/"), root / target.strip("/"))
        else:
            raise ValueError(f"{dockerfile}: expected FROM, ENV, RUN or COPY, found {step}")
    return root


def _steps(text: str) -> list[tuple[str, str]]:
    """Instructions and what follows them, with continued lines joined, without comments."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(step, rest) for step, _, rest in (line.partition(" ") for line in joined.splitlines())]


def _base(image: str, root: Path) -> Path:
    if image == "scratch":
        root.mkdir()
        return root
    assert image.startswith(("python:3", "debian:12"))  # a clean root is of Debian 12, and has Python and pip
    return clean_root.unpack(root)
