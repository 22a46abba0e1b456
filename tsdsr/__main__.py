"""`python -m tsdsr`: the same as `tsdsr`."""

import sys

from tsdsr.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
