#!/usr/lib/homebound/venv/bin/python3 -sP
# SPDX-License-Identifier: Apache-2.0
import sys

from homebound.cli.main import main

sys.exit(main())
