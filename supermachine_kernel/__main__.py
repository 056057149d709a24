# PYTHON_ARGCOMPLETE_OK
"""The command line: `python -m supermachine_kernel`, or `supermachine-kernel`."""

import sys

try:
    import argparse
    import os
    from pathlib import Path
    from typing import TYPE_CHECKING, Any, Optional

    from ._assets import ASSETS, Asset, assets_dir, extract_all_to, manifest
    from ._errors import AssetError, SupermachineKernelError
    from ._output import (
        PROGRAM,
        OutputError,
        discard,
        flush,
        flush_errors,
        prepare_streams,
        print_finding,
        print_json,
        print_table,
        say,
        write,
    )
    from ._package import ASSETS_DIRECTORY, installed_version
except KeyboardInterrupt:
    sys.exit("supermachine-kernel: error: interrupted")

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

GOOD, NOT_GOOD = 0, 1

_DESCRIPTION = """\
The guest side of the supermachine microVM runtime, as files to hand to a VMM or
to ship in an app: a Linux kernel, and what runs beside it in the guest."""

_EPILOG = f"""\
examples:
  {PROGRAM} info                  what is installed
  {PROGRAM} path kernel           where the kernel is, for a script
  {PROGRAM} extract build/guest   all files into a folder
  {PROGRAM} bundle MyApp.app      all into an app; sign it after
  {PROGRAM} verify MyApp.app      are they still the right ones?
  {PROGRAM} doctor                what is wrong here, and what to do

exit status: 0 good, 1 not good, 2 usage"""


def main(arguments: "Optional[Sequence[str]]" = None) -> int:
    """Run the command line; the exit status: 0 good, 1 not good, 2 usage (raised as SystemExit)."""
    try:
        prepare_streams()
        options = _options(arguments)
        status = _run(options)
        flush()
        return status
    except BrokenPipeError:  # the reader has gone
        discard(sys.stdout)
    except OutputError as error:
        discard(sys.stdout)
        say("error", str(error))
    except KeyboardInterrupt:
        say("error", "interrupted")
    return NOT_GOOD


def _options(arguments: "Optional[Sequence[str]]") -> argparse.Namespace:
    parser = _parser()
    _complete(parser)
    try:
        return parser.parse_args(arguments)
    except SystemExit:  # help, the version or a usage error has been printed, if it could be
        flush_errors()
        flush()
        raise
    except OSError:  # Python 3.9 does not bear a full disk under the usage error
        discard(sys.stderr)
        sys.exit(2)


def _run(options: argparse.Namespace) -> int:
    try:
        status: int = options.run(options)
        return status
    except (BrokenPipeError, OutputError):
        raise
    except SupermachineKernelError as error:
        failure = error
    except OSError as error:
        found = f"an error: {error.strerror or error}"
        failure = SupermachineKernelError(str(error.filename or "the system"), "to use it", found)
    if options.json:
        print_json(options.command, error=failure.fields())
    say("error", str(failure))
    return NOT_GOOD


def _info(options: argparse.Namespace) -> int:
    from ._installation import DESCRIPTIONS, installation_kind

    installed = manifest()
    if options.json:
        licences = {asset.name: {"licence": asset.licence} for asset in ASSETS}
        assets = {name: {**entry, **licences[name]} for name, entry in installed["assets"].items()}
        here = {"installation": installation_kind(), "directory": ASSETS_DIRECTORY, "assets": assets}
        print_json("info", **{**installed, **here})
        return GOOD
    write(f"{PROGRAM} {installed['version']}, {DESCRIPTIONS[installation_kind()]}\n")
    print_table(
        [
            ("folder", ASSETS_DIRECTORY),
            ("kernel", f"Linux {installed['kernel_release']}, {'with' if installed['af_tsi'] else 'without'} AF_TSI"),
            (
                "set",
                f"{installed['set']}, {'as released' if installed['origin'] == 'release' else 'a build of its own'}",
            ),
            ("set digest", installed["set_digest"]),
        ]
    )
    write("")
    rows = [(a.name, str(a.size), f"{a.mode:04o}", a.licence, f"{a.sha256[:16]}...") for a in ASSETS]
    print_table([("asset", "bytes", "mode", "licence", "SHA-256"), *rows])
    return GOOD


def _path(options: argparse.Namespace) -> int:
    path = options.asset.path if options.asset else assets_dir()
    if options.json:
        print_json("path", path=str(path))
        return GOOD
    write(str(path))
    return GOOD


def _extract(options: argparse.Namespace) -> int:
    folder = Path(options.directory)
    if not options.assets and options.directory in _NAMES and not folder.is_dir():
        options.usage(f"which folder? For one named like the asset: extract ./{options.directory}")
    if options.assets:
        paths = [asset.extract_to(folder / asset.name, parents=True) for asset in options.assets]
    else:
        extract_all_to(folder)
        paths = [folder / asset.name for asset in ASSETS]
    if options.json:
        print_json("extract", directory=str(folder), files=[str(path) for path in paths])
        return GOOD
    for path in paths:
        write(str(path))
    return GOOD


def _verify(options: argparse.Namespace) -> int:
    if options.directory is None:
        where, errors = ASSETS_DIRECTORY, {asset.name: _error(asset) for asset in ASSETS}
    else:
        import shlex

        from ._bundle import RECEIPT, check, folder_of, is_foreign

        folder = folder_of(Path(options.directory))
        where, errors = str(folder), check(folder, quick=options.quick)
        cure = f"put the set there again: {PROGRAM} bundle {shlex.quote(options.directory)}"
        if is_foreign(folder / RECEIPT):
            cure = f"move {RECEIPT} away and {cure}"
        for error in filter(None, errors.values()):
            error.cure = cure
    good = not any(errors.values())
    if options.json:
        files = [{"name": name, "ok": not error, "error": error and error.fields()} for name, error in errors.items()]
        print_json("verify", ok=good, directory=where, files=files)
    else:
        print_table([(name, "bad" if error else "ok") for name, error in errors.items()])
        flush()
        for error in filter(None, errors.values()):
            say("error", str(error))
    return GOOD if good else NOT_GOOD


def _error(asset: Asset) -> "Optional[AssetError]":
    try:
        asset.verify()
    except AssetError as error:
        return error
    return None


def _bundle(options: argparse.Namespace) -> int:
    from ._bundle import bundle, folder_of, is_signed

    target = Path(options.target)
    done = bundle(target)
    if options.json:
        files = [{"name": name, "action": action} for name, action in done.items()]
        print_json("bundle", directory=str(folder_of(target)), files=files)
    else:
        write(str(folder_of(target)))
        print_table(list(done.items()))
    if is_signed(target) and set(done.values()) != {"kept"}:
        say("warning", f"{target}: its signature seals the resources, which changed; sign it again")
    return GOOD


def _doctor(options: argparse.Namespace) -> int:
    from ._doctor import BAD, examine

    findings = []
    for finding in examine():
        findings.append(finding)
        if not options.json:
            print_finding(finding.subject, finding.status, finding.found, finding.cure)
    good = not any(finding.status == BAD for finding in findings)
    if options.json:
        print_json("doctor", ok=good, findings=[finding._asdict() for finding in findings])
    return GOOD if good else NOT_GOOD


_NAMES = [asset.name for asset in ASSETS]


def _asset(name: str) -> Asset:
    for asset in ASSETS:
        if asset.name == name:
            return asset
    raise argparse.ArgumentTypeError(f"no asset {name!r}: the assets are {', '.join(_NAMES)}")


def _non_empty(name: str) -> str:
    if not name:
        raise argparse.ArgumentTypeError("the name is empty: is a variable unset?")
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        PROGRAM, description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {installed_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")

    def command(name: str, run: "Any", summary: str, *examples: str) -> argparse.ArgumentParser:
        shown = "\n".join(["examples:", *(f"  {PROGRAM} {name} {example}".rstrip() for example in examples)])
        own = commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=shown,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        own.add_argument(
            "--json", action="store_true", help="print JSON (its schema: docs/cli.schema.json of the sources)"
        )
        own.set_defaults(run=run, command=name, usage=own.error)
        return own

    command("info", _info, "say what is installed: version, kernel, assets", "", "--json")

    path = command("path", _path, "print the path of an asset, or of their folder", "", "kernel")
    _complete_with(path.add_argument("asset", nargs="?", type=_asset, metavar="ASSET", help=", ".join(_NAMES)), _NAMES)

    extract = command("extract", _extract, "put assets into a folder, made if need be", "DIR", "kernel init-oci DIR")
    named = extract.add_argument("assets", nargs="*", type=_asset, metavar="ASSET", help="all when none is named")
    _complete_with(named, _NAMES)
    extract.add_argument("directory", type=_non_empty, metavar="DIR", help="files of the same names there are replaced")

    verify = command("verify", _verify, "compare size and SHA-256 of every asset", "", "DIR", "MyApp.app")
    verify.add_argument(
        "directory",
        nargs="?",
        type=_non_empty,
        metavar="DIR",
        help="a folder or app with the set, its programs executable; else what is installed",
    )
    verify.add_argument(
        "--quick", action="store_true", help="read no file that ensure_assets has proven there and that is unchanged"
    )

    bundle = command("bundle", _bundle, "put the set and a receipt into an app or a folder", "MyApp.app", "DIR")
    bundle.add_argument(
        "target",
        type=_non_empty,
        metavar="TARGET",
        help="MyApp.app (its Contents/Resources), or any folder; sign after",
    )

    command("doctor", _doctor, "look for what is wrong here, and say what to do", "", "--json")
    return parser


def _complete_with(action: argparse.Action, names: "Iterable[str]") -> None:
    action.completer = lambda **_: names  # type: ignore[attr-defined]  # argcomplete's name for it


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell, when it is that which runs us, and argcomplete is there."""
    if "_ARGCOMPLETE" in os.environ:
        import contextlib

        with contextlib.suppress(ImportError):
            import argcomplete

            argcomplete.autocomplete(parser)


if __name__ == "__main__":
    sys.exit(main())
