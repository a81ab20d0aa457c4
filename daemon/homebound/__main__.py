# SPDX-License-Identifier: Apache-2.0
"""`python -m homebound`: the same as the command `homebound`. May import: cli."""

import sys

from homebound.cli.main import main

sys.exit(main())
