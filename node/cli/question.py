"""What is asked, for the commands that take a question."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])

STDIN: Final = "-"


def question_argument(default: str | None = None) -> Callable[[C], C]:
    """The argument `question`: a text, or `-` for what standard input has."""
    return click.argument("question", default=default, required=default is None, callback=_asked)


def _asked(context: click.Context, _: click.Parameter, value: str) -> str:
    """Raises UsageError for no question: its answer would cost money all the same."""
    try:
        question = sys.stdin.read() if value == STDIN else value
    except UnicodeError as error:
        raise click.UsageError("what standard input has is no text", context) from error
    if not question.strip():
        raise click.UsageError(
            f'{"standard input" if value == STDIN else "the question"} is empty: ask something, such as "What is 2+2?"',
            context,
        )
    return question
