"""`python -m myriarch.cli`: the same as the installed command."""

import sys

from myriarch.cli import main

sys.exit(main())
