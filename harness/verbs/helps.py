"""How help looks: verbs and options in groups, every sentence whole at 80 columns."""

from typing import Any

from typer.core import TyperCommand, TyperGroup

from kdbench.harness.shorthand import explained

SHORT = "Short for"
FIRST = {"Arguments": 0, "Options": 1}
"""What a verb has alone comes before what it shares with others."""


class Verb(TyperCommand):
    """A verb whose options are listed by group, then what it has short names for."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """One section a group, in the order of the parameters."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                kind = "Arguments" if param.param_type_name == "argument" else "Options"
                title = getattr(param, "rich_help_panel", None) or kind
                sections.setdefault(title, []).append(record)
        if rows := explained(self.name or ""):
            sections[SHORT] = rows
        for title in sorted(sections, key=lambda title: FIRST.get(title, len(FIRST))):
            with formatter.section(title):
                formatter.write_dl(sections[title])


class Verbs(TyperGroup):
    """The verbs by what they are for, each with its whole first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One section a group of verbs."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                title = getattr(command, "rich_help_panel", None) or "Commands"
                said = " ".join((command.help or "").split("\n\n")[0].split())
                sections.setdefault(title, []).append((name, said.replace("``", "")))
        longest = max(len(name) for rows in sections.values() for name, _ in rows)
        for title, rows in sections.items():
            with formatter.section(title):  # columns of all sections stand below each other
                formatter.write_dl([(name.ljust(longest), said) for name, said in rows])
