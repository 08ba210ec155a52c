"""`python -m detect_prune` is the command `detect-prune`."""

import sys

from detect_prune.cli.main import main

sys.exit(main())
