"""The command `swarm`. Finds its commands by name and imports only the one that runs."""

from __future__ import annotations

import inspect
import os
import re
import sys
from functools import partial
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from swarm.kernels import plugins
from swarm.kernels.errors import UsageError
from swarm.orchestrator import console, toml

PACKAGE = "swarm.orchestrator.commands"
NEEDS = ("command", "PANEL")
PANELS = ("Campaigns", "Results", "Methods and models", "Use")
CONTEXT = {"help_option_names": ["-h", "--help"]}


EXAMPLES = re.compile(r"\s*Examples?:\s+(?P<list>`swarm .*)\Z", re.DOTALL)
"""The end of a docstring that lists examples."""


class _Group(TyperGroup):
    """Finds commands by name and imports the one that runs; its help imports all of them."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        names: Any = dict.fromkeys(plugins.names(PACKAGE))  # typer suggests from the keys; the values are never used
        self.commands = names

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """The command of that name, None when there is none."""
        return build(cmd_name) if cmd_name in self.commands else None

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """The commands that can be used, by panel and name."""
        return sorted(plugins.modules(PACKAGE, NEEDS), key=_place)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands under their panels. Plain text: rich would double the time that help takes."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            short = build(name).get_short_help_str(limit=100)
            panels.setdefault(_panel(name), []).append((name, short))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)


class _Command(TyperCommand):
    """A command whose help ends with a section of its examples, as they would be typed."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the examples one per line, however long they are."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write("Examples:\n" + "".join(f"  {line}\n" for line in self.epilog.split("\n")))


def _panel(name: str) -> str:
    return str(plugins.module(PACKAGE, name, NEEDS).PANEL)


def _place(name: str) -> tuple[int, str]:
    """Where help lists a command."""
    panel = _panel(name)
    return (PANELS.index(panel) if panel in PANELS else len(PANELS)), name


def build(name: str) -> Any:
    """The command of a module: its function `command`, listed under the module's `PANEL`.

    Options that are left out come from SWARM_<COMMAND>_<OPTION>, then from the table [<command>] of swarm.toml.
    A module whose options are the settings of a campaign says `PREFIX = "SWARM"` and reads SWARM_<OPTION>.
    """
    module = plugins.module(PACKAGE, name, NEEDS)
    prefix = vars(module).get("PREFIX", f"SWARM_{name.upper()}")
    context = {**CONTEXT, "auto_envvar_prefix": prefix, "default_map": toml.table(name)}
    doc = inspect.getdoc(module.command) or ""
    found = EXAMPLES.search(doc)
    text = doc[: found.start()] if found else doc
    examples = re.findall(r"`(swarm [^`]+)`", found["list"]) if found else []
    epilog = "\n".join(" ".join(example.split()) for example in examples)
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, cls=_Command, context_settings=context, help=text, epilog=epilog or None)(module.command)
    built = typer.main.get_command(single)
    unknown = sorted(set(context["default_map"]) - {param.name for param in built.params})
    if unknown:  # refused when the command runs: its help, which says what is known, stays
        built.callback = partial(_refuse, f"unknown key {unknown[0]!r} in [{name}] of {toml.FILE}.", name)
    return built


def _refuse(problem: str, command: str, **_: object) -> None:
    raise UsageError(problem, f"See `swarm {command} --help`.")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"swarm {version('kv-swarm')}\n")
        raise typer.Exit


app = typer.Typer(
    cls=_Group,
    name="swarm",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=CONTEXT,
    pretty_exceptions_enable=False,
)


@app.callback(
    epilog="Options also come from swarm.toml and SWARM_* variables.  Start with `swarm launch --budget 330`."
)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find out, by experiment, how far a model's KV cache can be compressed."""


def main(args: list[str] | None = None) -> None:
    """The program: run the command line and end the process."""
    try:
        run(args)
    except SystemExit as ending:
        _leave_if_ray_lingers(ending.code if isinstance(ending.code, int) else 0)
        raise


def run(args: list[str] | None = None) -> None:
    """Run the command line; every error becomes one line on standard error.

    Raises:
        SystemExit: always, with the exit code.
    """
    try:
        code = typer.main.get_command(app).main(args, prog_name="swarm", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        text = error.format_message().rstrip(".?")
        if not text:  # `swarm` alone has printed its help
            sys.exit(error.exit_code)
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "swarm"
        end = "?" if "Did you" in text else "."
        console.fail(f"{text[:1].lower()}{text[1:]}{end}", f"See `{where} --help`.", error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        console.fail("interrupted.", "", 130)
    except BrokenPipeError:
        _leave_quietly()
    except SystemExit as ending:
        if isinstance(ending.__context__, BrokenPipeError):  # click met it first
            _leave_quietly()
        raise
    except Exception as error:
        console.fail_with(error)
    sys.exit(code if isinstance(code, int) else 0)


def _leave_quietly() -> NoReturn:
    """The reader of our pipe went away, as `head` does: not an error. The null device keeps the exit quiet."""
    sys.stdout = open("/dev/null", "w")  # noqa: PTH123, SIM115
    sys.exit(0)


def _leave_if_ray_lingers(code: int) -> None:
    if "swarm.orchestrator.cluster" not in sys.modules:
        return
    from swarm.orchestrator import cluster

    if cluster.lingers():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
