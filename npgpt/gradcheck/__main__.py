"""`python -m npgpt_gradcheck` is the command `npgpt-gradcheck`."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
