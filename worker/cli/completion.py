"""``ringonce completion``: what a shell needs to complete commands and options."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

__all__ = ["completion"]

VARIABLE: Final = "_RINGONCE_COMPLETE"
"""Click's own name for it: set to ``bash_complete`` or so, ``ringonce`` prints what may come next."""

EXAMPLES: Final = """\b
Examples:
  ringonce completion bash > ~/.local/share/bash-completion/completions/ringonce
  ringonce completion zsh > ~/.zfunc/_ringonce
  ringonce completion fish > ~/.config/fish/completions/ringonce.fish

For zsh, ~/.zfunc must stand in fpath before compinit. Bash 4.4 or later.
"""


@click.command(epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the script by which a shell completes commands and options."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has all three
    click.echo(kind(ctx.find_root().command, {}, "ringonce", VARIABLE).source())
