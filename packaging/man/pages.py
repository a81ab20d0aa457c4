# SPDX-License-Identifier: Apache-2.0
"""Write the man pages: python packaging/man/pages.py OUT. Needs homebound on the path and nothing else.

A page is NAME.SECTION.md beside this file; {{word}} in it is filled from the code: verbs and exit statuses
from the command line, settings and metrics from their declarations. Only a part of Markdown is known:
headings, paragraphs, fences, "term / :   text" lists, **bold**, *italic*, `code`. Source: groff_man(7).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click

from homebound import __version__, metrics, settings
from homebound.cli.main import EXIT_STATUS, root
from homebound.config import reference

HERE = Path(__file__).resolve().parent
SPAN = re.compile(r"\*\*(?P<bold>[^*]+)\*\*|\*(?P<italic>[^*]+)\*|`(?P<code>[^`]+)`")


def exit_status() -> str:
    """A list entry for each."""
    return "\n\n".join(f"{number}\n:   {text}." for number, text in EXIT_STATUS.items())


def verbs() -> str:
    """Each verb with its arguments, help and options."""
    return "\n\n".join(_verbs(root, "homebound"))


def _verbs(group: click.Group, path: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from _verbs(command, f"{path} {name}")
            continue
        context = click.Context(command, info_name=name)
        words = [*command.collect_usage_pieces(context)]
        usage = " ".join(word if word == "[OPTIONS]" else f"*{word}*" for word in words)
        text = " ".join((command.help or "").split())
        usage = usage.replace("[OPTIONS]", "[*option* ...]")
        yield f"**{path} {name}** {usage}\n:   {text}{_options(command, context)}"


def _options(command: click.Command, context: click.Context) -> str:
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    records = [option.get_help_record(context) for option in options]
    parts = [f"**{record[0]}**: {record[1].rstrip('.')}." for record in records if record]
    return "".join(f"\n    \n    {part}" for part in parts)


def declared_settings() -> str:
    """Each table, then each of its settings."""
    parts, tables, section = [], settings.sections(), ""
    for entry in reference.declarations():
        if entry.section != section:
            section = entry.section
            parts.append(f"## [{section}]\n\n{' '.join((tables[section].__doc__ or '').split())}")
        unit = f", in {entry.unit}" if entry.unit else ""
        default = "Required." if entry.required else f"Default: `{reference.toml(entry.default)}`."
        parts.append(
            f"*{entry.key}*\n:   {entry.help} Wanted: {reference.form(entry.annotation)}{unit}. {default}"
        )
    return "\n\n".join(parts)


def declared_metrics() -> str:
    """Each metric with its kind, help and labels."""
    parts = []
    for metric in metrics.METRICS:
        labels = f" Labels: {', '.join(metric.labels)}." if metric.labels else ""
        parts.append(f"**{metric.name}** ({metric.type})\n:   {metric.help.rstrip('.')}.{labels}")
    return "\n\n".join(parts)


FILLERS: Mapping[str, Callable[[], str]] = {
    "verbs": verbs, "exit_status": exit_status, "settings": declared_settings, "metrics": declared_metrics,
}  # fmt: skip


def roff(name: str, section: str, text: str) -> str:
    """The page in man(7)'s macros. No date in it: the same source gives the same page."""
    lines = [f'.TH "{name.upper()}" "{section}" "" "homebound {__version__}" ""', ".nh", ".ad l"]
    for block in re.split(r"\n\n(?! )", text.strip()):
        lines += _block(block.strip("\n"))
    return "\n".join(lines) + "\n"


def _block(block: str) -> list[str]:
    if block.startswith("# "):
        return [f'.SH "{_plain(block[2:])}"']
    if block.startswith("## "):
        return [f'.SS "{_plain(block[3:])}"']
    if block.startswith("```"):
        code = block.strip("`").strip("\n").splitlines()
        return [".PP", ".RS 4", ".nf", *(_guard(_plain(line)) for line in code), ".fi", ".RE"]
    term, mark, rest = block.partition("\n:   ")
    if mark:
        first, *more = re.split(r"\n\s*\n", rest)
        lines = [".TP", _guard(_spans(" ".join(term.split()))), _guard(_spans(" ".join(first.split())))]
        for part in more:
            lines += [".sp 0", _guard(_spans(" ".join(part.split())))]
        return lines
    return [".PP", _guard(_spans(" ".join(block.split())))]


def _spans(text: str) -> str:
    parts, end = [], 0
    for match in SPAN.finditer(text):
        letter = "I" if match["italic"] else "B"
        inner = match["bold"] or match["italic"] or match["code"]
        parts += [_plain(text[end : match.start()]), f"\\f{letter}{_plain(inner)}\\fR"]
        end = match.end()
    return "".join([*parts, _plain(text[end:])])


def _plain(text: str) -> str:
    """Characters that groff reads as something else. A hyphen-minus must stay one, to be copied."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace('"', "\\(dq")


def _guard(line: str) -> str:
    return f"\\&{line}" if line.startswith((".", "\\(aq")) else line


def main(out: Path) -> None:
    """Write every page into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    for source in sorted(HERE.glob("*.md")):
        name, _, section = source.stem.rpartition(".")
        text = re.sub(r"\{\{(\w+)\}\}", lambda found: FILLERS[found[1]](), source.read_text(encoding="utf-8"))
        (out / source.stem).write_text(roff(name, section, text), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
