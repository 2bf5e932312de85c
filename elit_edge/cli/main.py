"""`elit-edge`: finds the command, and turns errors that a user can act on into one line and exit code 1."""

from __future__ import annotations

import importlib
from typing import Any

import click

from elit_edge.errors import ElitEdgeError
from elit_edge.version import __version__

COMMANDS = {
    "export": "Compile a checkpoint into a bundle.",
    "inspect": "Show what a bundle holds.",
    "verify": "Check a bundle's bytes, and its graphs against PyTorch.",
    "generate": "Make pictures from a bundle.",
    "probe": "Show what this machine is, what is ready on it, and how fast it is.",
    "evaluate": "Measure what each plan of a bundle loses in quality.",
    "bench": "Measure what a bundle costs on this device; draw and compare that.",
    "calibrate": "Make a smaller or faster precision, proven against float32.",
    "compile": "Make engines or Core ML packages of a bundle.",
    "demo": "Export the sample model and draw every class at every budget.",
}


class Commands(click.Group):
    """Imports a command's module when it is called, so that light commands stay light."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"elit_edge.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ElitEdgeError as error:
            if ctx.params["debug"]:
                raise
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except BrokenPipeError:
            raise
        except OSError as error:
            if ctx.params["debug"]:
                raise
            where = (
                f"{error.filename}: {error.strerror}; check the path and its permissions" if error.filename else error
            )
            click.echo(f"error: {where if error.filename else error}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted: nothing half-made was kept; run the command again", err=True)
            ctx.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Compile elastic diffusion transformers for devices, and run them at the budget that fits."""
