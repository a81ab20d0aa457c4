# SPDX-License-Identifier: Apache-2.0
"""The command line: verbs, exit statuses, and what a person sees. The only place that prints, but for demo.

Each verb fetches a document from another module, prints it as JSON or draws it, and ends with a status that
scripts can trust. Rooms are imported inside the verbs: `status` must not pay for the rest.
May import: everything but trainer, guard and gateway.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from homebound import __version__
from homebound.cli.ledger import ledger
from homebound.cli.options import SCHEMA, config_option, json_option
from homebound.cli.password import password_line
from homebound.cli.release import release
from homebound.cli.terminal import draw, print_json
from homebound.cli.watch import events, top
from homebound.errors import (
    ConfigError,
    HomeboundError,
    InternalError,
    PermissionMissing,
    UsageError,
    ViolationPresent,
)
from homebound.leaktest.without import WALLS

INTERRUPTED = 130  # 128 + SIGINT, as shells say it
EXIT_STATUS: Mapping[int, str] = {
    0: "good",
    1: "failed; the message says what",
    2: "the command line is wrong",
    3: "no daemon of that name runs",
    4: "something was denied, got out, or does not add up",
    69: "something outside that is needed is away",
    70: "a bug in homebound",
    77: "a right is missing, mostly root",
    78: "the configuration is wrong",
    INTERRUPTED: "interrupted from the keyboard",
}
EPILOG = "\b\nExit status:\n" + "\n".join(f"{number:>5}  {text}" for number, text in EXIT_STATUS.items())


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="homebound %(version)s")
@click.option("--debug", is_flag=True, help="Show where an error arose. May stand behind a verb, too.")
def root(debug: bool) -> None:
    """Federated learning on this machine, with the kernel's word that no raw data leaves it."""
    del debug  # main() took it out of the words


@root.command()
@config_option
@click.pass_context
def run(context: click.Context, config: Path | None) -> None:
    """Run the daemon in the foreground, as root."""
    if os.geteuid() != 0:
        raise PermissionMissing("the daemon must be started as root", "sudo homebound run")
    from homebound.config.reading import load
    from homebound.settings import to_json

    fd = os.memfd_create("homebound-settings", 0)  # no close-on-exec: the supervisor reads it
    os.write(fd, to_json(load(config)))
    os.lseek(fd, 0, os.SEEK_SET)
    # The same process goes on as the supervisor, so that what reading the configuration took is given back.
    # -P and -s: modules come from where this Python has them, not from the folder root happens to stand in.
    words = [sys.executable, "-s", "-P", "-m", "homebound.supervisor", "--settings-fd", str(fd)]
    words += ["--config", str(config.resolve())] if config else []
    words += ["--debug"] if context.obj else []
    sys.stdout.flush()
    os.execv(sys.executable, words)


@root.command()
@config_option
@click.option("--name", help="Device to ask; without it the one that the configuration names.")
@click.option("--run-folder", type=click.Path(path_type=Path), help="Run folder; without it paths.run.")
@json_option
def status(config: Path | None, name: str | None, run_folder: Path | None, as_json: bool) -> None:
    """Show roles, walls, bytes, rounds, violations."""
    from homebound import view
    from homebound.cli import statusclient

    document = statusclient.ask(*statusclient.locate(config, name, run_folder))
    if as_json:
        print_json(document)
    else:
        draw(view.status(document, time.time()))
    if document["violations"]:
        rules = ", ".join(sorted({str(entry["rule"]) for entry in document["violations"]}))
        raise ViolationPresent(f"a violation stands: {rules}", "look at the journal: journalctl -u homebound")


@root.command()
@config_option
@json_option
def doctor(config: Path | None, as_json: bool) -> None:
    """Check what this host has and lacks."""
    from homebound import view
    from homebound.cli.doctor import examine

    found = [asdict(check) for check in examine(config)]
    bad = [check["name"] for check in found if check["need"] == "required" and check["result"] == "bad"]
    if as_json:
        print_json({"schema": SCHEMA, "ready": not bad, "checks": found})
    else:
        draw(view.checks(found))
    if bad:
        raise HomeboundError(f"this host is not ready: {', '.join(bad)}", "the lines above say what to do")


@root.command("check-config")
@config_option
@click.option("--attach", is_flag=True, help="Also load and attach every kernel program, then remove them.")
@json_option
@click.pass_context
def check_config(context: click.Context, config: Path | None, attach: bool, as_json: bool) -> None:
    """Say all that is wrong with the configuration."""
    from homebound import view
    from homebound.config.problems import to_error
    from homebound.config.reading import read

    reading = read(config)
    programs = None
    if attach and reading.settings is not None and not reading.problems:
        from homebound.cli.attachtrial import attach_and_remove

        programs = attach_and_remove(reading.settings.mode == "enforce", reading.settings.loader)
    failed = [
        entry["name"] for entry in programs or [] if entry["need"] == "required" and not entry["attached"]
    ]
    if as_json:
        print_json(
            {
                "schema": SCHEMA,
                "right": not reading.problems and not failed,
                "files": reading.files,
                "problems": [asdict(problem) for problem in reading.problems],
                "programs": programs,
            }
        )
        context.exit(78 if reading.problems else int(bool(failed)))
    if reading.problems:
        raise to_error(reading.problems)
    draw([view.programs(programs)] if programs else [])
    if failed:
        raise HomeboundError(
            f"not attached: {', '.join(failed)}", "`homebound doctor` says what this kernel lacks"
        )
    click.echo(f"right: {', '.join(reading.files)}")
    if os.geteuid() != 0:
        click.echo("not tried, as only root can: whether the trainer may read the data")


@root.command("show-config")
@config_option
@click.option("--reference", is_flag=True, help="Print the commented reference of all settings.")
@json_option
def show_config(config: Path | None, reference: bool, as_json: bool) -> None:
    """Print each setting and the file it comes from."""
    from homebound import view
    from homebound.config import reference as declared
    from homebound.config.problems import to_error
    from homebound.config.reading import read, shown

    if reference:
        click.echo(declared.reference(), nl=False)
        return
    reading = read(config, host=False)
    settings = shown(reading)
    if as_json:
        print_json({"schema": SCHEMA, "files": reading.files, "settings": settings})
    else:
        for key, entry in settings.items():
            click.echo(view.setting(f"{key} = {declared.toml(entry['value'])}", entry["origin"]))
    if reading.problems:
        raise to_error(reading.problems)


@root.command("app-hash")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def app_hash(path: Path, as_json: bool) -> None:
    """Print the [app] hashes of a Flower app."""
    if not path.is_dir():
        raise UsageError(f"{path} is not a folder", "name the folder of the Flower app")
    # A child: the module knows Flower, which this process must not load.
    words = [sys.executable, "-s", "-P", "-m", "homebound.gateway.identity", str(path.resolve())]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        what = done.stderr.strip().splitlines() or [f"{path} could not be hashed"]
        raise ConfigError(what[-1], "mend the app, then try again")
    hashes = json.loads(done.stdout)
    if as_json:
        print_json({"schema": SCHEMA, "path": str(path.resolve()), **hashes})
        return
    click.echo(f"fab_sha256 = {json.dumps(hashes['fab_sha256'])}")
    click.echo(f"tree_sha256 = {json.dumps(hashes['tree_sha256'])}")


@root.command()
@click.option("--devices", default=2, show_default=True, type=click.IntRange(1, 16), help="Devices to run.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100), help="Rounds to train.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the results there."
)
@click.pass_context
def demo(context: click.Context, devices: int, rounds: int, json_file: Path | None) -> None:
    """Train here on several devices, then try to leak."""
    from homebound.demo import run as run_demo

    context.exit(run_demo(devices=devices, rounds=rounds, json_file=json_file))


@root.command()
@config_option
def logs(config: Path | None) -> None:
    """Print what the app printed: it stays on this device, and may be raw data."""
    from homebound.config.reading import read
    from homebound.supervisor.trainerlog import FILE, show

    values = read(config, host=False).values
    show(Path(values["paths.state"], values["name"], FILE), sys.stdout.buffer, sys.stdout.isatty())


@root.command()
@click.argument("channels", nargs=-1, type=int)
@click.option(
    "--channel", "more", type=int, multiple=True, metavar="N", help="Only this one; may be repeated."
)
@click.option(
    "--root", "inside", default="", metavar="FOLDER", help="In this root file system, as trainer.root."
)
@click.option(
    "--without", multiple=True, type=click.Choice(WALLS), hidden=True, help="For measuring the rest."
)
@json_option
@click.pass_context
def leaktest(
    context: click.Context,
    channels: tuple[int, ...],
    more: tuple[int, ...],
    inside: str,
    without: tuple[str, ...],
    as_json: bool,
) -> None:
    """Try the ways out from a trainer's sandbox.

    All, or those with the numbers CHANNELS. Needs root."""
    from homebound import view
    from homebound.leaktest import device
    from homebound.settings import UsersSettings

    report = device.try_host((*channels, *more), UsersSettings().base, without, inside)
    if as_json:
        print_json(report.as_json())
    else:
        draw([view.leaks(report.rows()), view.not_applicable(report.rows_not_applicable())])
        draw([view.elsewhere(report.rows_elsewhere())])
        click.echo(report.summary())
    if report.out:
        raise ViolationPresent("something got out", "train nothing here, and report this with --json")
    context.exit(report.exit_status)


@root.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version, and those it stands on."""
    from homebound.cli.doctor import versions

    found = versions()
    if as_json:
        print_json({"schema": SCHEMA, "versions": found})
    else:
        for name, text in found.items():
            click.echo(f"{name} {text}")


root.add_command(events)
root.add_command(ledger)
root.add_command(password_line)
root.add_command(release)
root.add_command(top)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (without the program's name) and return its exit status. Raises nothing."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"] or ["--help"]
    try:
        result = root.main(words, prog_name="homebound", standalone_mode=False, obj=debug)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except HomeboundError as error:
        return _fail(error, debug)
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "homebound"
        return _fail(UsageError(error.format_message(), f"{command} --help"), debug)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has enough. Nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - the one place where a bug becomes a line
        text = " ".join(str(error).split())
        return _fail(
            InternalError(f"{type(error).__name__}: {text}", "run it again with --debug and report that"),
            debug,
        )


def _fail(error: HomeboundError, debug: bool) -> int:
    """Say what is wrong and what to do, on standard error."""
    if debug:
        traceback.print_exc()
    for line in error.message.splitlines():
        click.echo(f"homebound: {line}", err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)
    return error.exit_status
