"""`python -m npgpt` is the command `npgpt`."""

import sys


def main() -> int:
    """Run the command line, and return its exit code. Ctrl-C while the first modules are imported is one line, too."""
    try:
        from npgpt.cli import main
        from npgpt.cli.console import restart_in_utf8

        restart_in_utf8()
        return main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
