# SPDX-License-Identifier: Apache-2.0
"""One thing that is wrong with the configuration, and how many of them become one error.

A problem says in which file, at which key, with which value, and what is wanted instead.
Pure. May import: errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homebound.errors import ConfigError

VALUE_WIDTH = 100


@dataclass(frozen=True)
class Problem:
    """``value`` is as the file writes it, or empty. ``wanted`` says what is wanted or what is wrong."""

    file: str
    key: str
    value: str
    wanted: str
    hint: str = ""

    def __str__(self) -> str:
        """One line: ``FILE: KEY = VALUE: WANTED``, without the parts that there are not."""
        value = self.value if len(self.value) <= VALUE_WIDTH else self.value[: VALUE_WIDTH - 3] + "..."
        if not value:
            return f"{self.file}: {self.key} {self.wanted}" if self.key else f"{self.file} {self.wanted}"
        return f"{self.file}: {self.key} = {value}: {self.wanted}"


def to_error(problems: Sequence[Problem]) -> ConfigError:
    """All problems as one error: a line each. A single problem keeps its own hint."""
    if len(problems) == 1:
        hint = problems[0].hint or "correct it, then try `homebound check-config`"
        return ConfigError(str(problems[0]), hint)
    lines = [f"{problem}; {problem.hint}" if problem.hint else str(problem) for problem in problems]
    return ConfigError(
        "\n".join(lines), f"correct these {len(problems)} lines, then try `homebound check-config`"
    )
