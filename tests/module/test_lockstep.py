"""`require_version`: the release, its local labels and its post-releases; PEP 440 as `packaging` reads it."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from packaging.version import Version

import supermachine_kernel
from supermachine_kernel import LockstepError, require_version
from supermachine_kernel._assets import manifest
from tests.support import child

NUMBER = st.integers(0, 9) | st.sampled_from([10, 62, 63, 620, 10**12])
RELEASE = st.lists(NUMBER, min_size=3, max_size=3).map(lambda parts: ".".join(map(str, parts)))


@st.composite
def versions(draw: st.DrawFn) -> str:
    """Versions of every kind PEP 440 knows, near each other, in the normal form."""
    text = draw(st.sampled_from(["", "", "", "1!"])) + draw(RELEASE)
    for part in (".0", f"rc{draw(NUMBER)}", f".post{draw(NUMBER)}", f".dev{draw(NUMBER)}"):
        text += draw(st.sampled_from(["", "", part]))
    label = draw(st.lists(st.text("0123456789abcdefxyz", min_size=1, max_size=8), max_size=3))
    return str(Version(text + ("+" + ".".join(label) if label else "")))


def passes(wanted: str, found: str) -> bool:
    """Whether `require_version(wanted)` passes where the manifest says `found`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(manifest(), "version", found)
        try:
            require_version(wanted)
        except LockstepError as error:
            assert error.expected == f"version {wanted}"
            assert error.found.startswith(f"{found}, and snapshots")
            assert error.cure == f'pip install "supermachine-kernel=={wanted}"'
            assert "\n" not in str(error)
            return False
        return True


@given(found=versions(), other=RELEASE)
def test_a_version_passes_for_its_release_as_packaging_reads_it(found: str, other: str) -> None:
    version = Version(found)
    own = ".".join(map(str, version.release[:3]))
    assert passes(own, found) == (version.base_version == own and not version.is_prerelease)
    if other != own:
        assert not passes(other, found)


@pytest.mark.parametrize("found", ["0.7.62", "0.7.62+custom.0a1b2c3d", "0.7.62.post1", "0.7.62.post1+custom.0a1b2c3d"])
def test_the_release_and_its_builds_pass(found: str) -> None:
    assert passes("0.7.62", found)


@pytest.mark.parametrize(
    "found",
    ["0.7.6", "0.7.620", "0.7.62.1", "0.7.62rc1", "0.7.62.dev1", "0.7.62.post1.dev1", "1!0.7.62", "10.7.62", "0.7.63"],
)
def test_any_other_version_does_not_pass(found: str) -> None:
    assert not passes("0.7.62", found)


@given(versions())
def test_asking_for_what_is_no_release_is_a_value_error(text: str) -> None:
    """Of what is asked for, only X.Y.Z means one kernel build."""
    version = Version(text)
    assume(version.base_version != text or len(version.release) != 3 or version.epoch)
    with pytest.raises(ValueError, match=r"expected a release version X\.Y\.Z"):
        require_version(text)


@pytest.mark.parametrize(
    "text", ["", "0.7", "v0.7.62", "0.7.062", "0.7.62\n", " 0.7.62", "0.7.٦٢", "0.7.62+x", ">=0.7"]
)
def test_each_spelling_that_is_no_release_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a release version X\.Y\.Z"):
        require_version(text)


def test_this_installation_passes_for_its_own_release() -> None:
    require_version(Version(supermachine_kernel.__version__).base_version)


def test_the_message_is_the_last_line_of_a_library_that_does_not_start() -> None:
    """In a process of its own: the message is the last line."""
    program = "import supermachine_kernel; supermachine_kernel.require_version('9.9.9')"
    done = child.python(program)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "supermachine_kernel._errors.LockstepError: supermachine-kernel: expected version 9.9.9, found "
    )
    assert supermachine_kernel.__version__ in last
