"""The command line: `python -m supermachine_kernel`."""

import sys


def main() -> int:
    """Run the command line; the exit status: 0 good, 1 not good, 2 usage."""
    return 2


if __name__ == "__main__":
    sys.exit(main())
