"""`python -m tsdsr`: the same as `tsdsr`."""

import sys

from tsdsr.cli import main

if __name__ == "__main__":
    sys.exit(main())
