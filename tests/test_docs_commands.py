"""Every command that README and docs/ show is one that the command line takes: names, options, choices."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from poster_edge.cli.main import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STARTS = ("poster-edge", "poster_edge")
ENDS = ("|", ";", "&&")


def commands(page: Path) -> Iterator[list[str]]:
    """Arguments of each ``poster-edge …`` in the page's blocks of shell commands, comments left out."""
    text = page.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(
        r"(?:^    poster-edge .*\n)+", text, re.MULTILINE
    )
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&")
        lexer.whitespace_split = True
        words = list(lexer)
        while at := next((i for i, word in enumerate(words, 1) if word in STARTS), 0):
            words = words[at:]
            yield list(itertools.takewhile(lambda word: word not in ENDS, words))


def check(arguments: list[str]) -> None:
    """Raise click's usage error for a command, an option or a choice that does not exist."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name, *arguments = arguments
        found = command.get_command(context, name)
        assert found is not None, f"no command {name!r}"
        command, context = found, click.Context(found, parent=context, info_name=name)
    values, rest, _ = command.make_parser(context).parse_args(arguments)
    assert not rest, f"left over: {rest}"
    for parameter in command.params:
        if isinstance(parameter.type, click.Choice | click.types.IntRange) and parameter.name in values:
            parameter.type_cast_value(context, values[parameter.name])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_the_page_exist(page: Path) -> None:
    found = list(commands(page))
    assert found
    for arguments in found:
        try:
            check(arguments)
        except click.UsageError as error:
            pytest.fail(f"{page.name}: poster-edge {shlex.join(arguments)}: {error.format_message()}")


@pytest.mark.parametrize("wrong", ["fly", "run --sources x", "run --source x y", "train --data x --augmentation odd"])
def test_a_command_that_does_not_exist_is_seen(wrong: str) -> None:
    with pytest.raises((click.UsageError, AssertionError)):
        check(wrong.split())


#: Options in the text that are those of other programs: venv, pip, tensorboard.
OTHERS = {"--system-site-packages", "--no-deps", "--logdir"}


def options_of(command: click.Command, context: click.Context) -> set[str]:
    """Every option of a command and, of a group, of all that is below."""
    names = {name for p in command.get_params(context) for name in (*p.opts, *p.secondary_opts)}
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            names |= options_of(below, click.Context(below, parent=context, info_name=name))
    return names


def test_options_in_the_text_exist() -> None:
    known = options_of(cli, click.Context(cli)) | OTHERS
    scripts = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        named = {
            o for code in re.findall(r"`([^`]+)`", prose) for o in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", code)
        }
        assert not {o for o in named - known if f'"{o}"' not in scripts}, page.name
