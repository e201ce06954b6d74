"""`python -m privsyn` is the program `privsyn`."""

from __future__ import annotations

import sys

from privsyn_start import main

sys.exit(main())
