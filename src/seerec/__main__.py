"""``python -m seerec``."""

import sys

from seerec.cli import main

sys.exit(main())
