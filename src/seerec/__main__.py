"""``python -m seerec``, and the command ``seerec``."""

import sys


def main() -> int:
    """Run a command; an interrupt while modules are still being imported ends as quietly as a later one."""
    try:
        from seerec.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
