"""Where this checkout, or this sdist, lies."""

from pathlib import Path

from .errors import BuildError

PROJECT = Path(__file__).resolve().parents[2]


def refuse_link_outside(name: str, project: Path = PROJECT) -> None:
    """Raise BuildError for a file whose content lies outside of `project`: an archive would give it away."""
    end = (project / name).resolve()
    if not end.is_relative_to(project.resolve()):
        raise BuildError(name, "a file of this checkout", f"a link to {end}", "remove it")
