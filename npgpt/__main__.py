"""`python -m npgpt` is the command `npgpt`."""

import sys

from npgpt.cli import main

if __name__ == "__main__":
    sys.exit(main())
