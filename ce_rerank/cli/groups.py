"""A group of commands of which one needs no name."""

from __future__ import annotations

from typing import Any, ClassVar

from typer.core import TyperGroup


class DefaultCommandGroup(TyperGroup):
    """A group in which `GROUP WORDS...` is `GROUP DEFAULT WORDS...`, unless the first word is a command."""

    default_command: ClassVar[str]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command first, unless another one or an option of the group itself stands there."""
        own = {name for option in self.get_params(ctx) for name in (*option.opts, *option.secondary_opts)}
        if not args and not self.no_args_is_help:
            args = [self.default_command]
        elif args and args[0] not in self.list_commands(ctx) and args[0] not in own:
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)
