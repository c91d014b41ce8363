"""What is asked, and of which model, for the commands that take a question."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from router_client.routing.wishes import AUTO

C = TypeVar("C", bound=Callable[..., Any])

STDIN: Final = "-"


def question_argument(default: str | None = None) -> Callable[[C], C]:
    """The argument `question`: a text, or `-` for what standard input has."""
    settings: dict[str, Any] = {} if default is None else {"default": default}
    return click.argument("question", callback=_asked, **settings)


def named(context: click.Context, _: click.Parameter, value: str) -> str:
    """A model's name. Raises UsageError for none, such as of a variable that is not set: any would be taken for it."""
    if not value.strip():
        raise click.UsageError("the model is empty: name one, as satroute nodes lists them", context)
    return value


model_option = click.option(
    "--model",
    default=AUTO,
    show_default=True,
    callback=named,
    help="A model's name, with :floor or :nitro; or auto.",
)


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
