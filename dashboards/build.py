# SPDX-License-Identifier: Apache-2.0
"""Write host.json, fleet.json and what is made in docs/: `make dashboards`; with a folder, all of it there.

They are committed, so that nobody needs this program to use them; a test builds them again and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import fleet, host, reference

FOLDER = Path(__file__).parent
DOCS = FOLDER.parent / "docs"


def text(made: Dashboard) -> str:
    """The JSON, the same for the same dashboard. Panels are numbered: links and alerts name them by that."""
    built = made.build()
    for number, panel in enumerate(built.panels or (), 1):
        panel.id_val = number
    encoded: str = JSONEncoder(sort_keys=True, indent=2).encode(built)
    return encoded + "\n"


def main() -> int:
    """Write all into the folder that is named, or each to its place."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for name, part in (("host", host), ("fleet", fleet)):
        (folder / f"{name}.json").write_text(text(part.build()))
    docs = folder if len(sys.argv) > 1 else DOCS
    (docs / "metrics.md").write_text(reference.metrics())
    (docs / "settings.md").write_text(reference.settings())
    (docs / "alerts.md").write_text(reference.with_alerts((DOCS / "alerts.md").read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
