"""Numbers on the command line that are some."""

from __future__ import annotations

import math
from typing import Any

import click


class Real(click.FloatRange):
    """Not `nan`, which is in every range, nor `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number that can be.", param, ctx)
        return number
