"""Show the options of a function in `help()` and notebooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter, getdoc, signature
from typing import Any, TypeVar

from flexselect.options import LoadingOptions

F = TypeVar("F", bound=Callable[..., Any])


def show_options(options: type[LoadingOptions]) -> Callable[[F], F]:
    """Decorate a function with `**options`: `help()` and notebooks show each option, its default and its meaning."""

    def decorate(function: F) -> F:
        shown = signature(function)
        *named, rest = shown.parameters.values()
        listed = [
            Parameter(option.name, Parameter.KEYWORD_ONLY, default=option.default, annotation=option.type)
            for option in fields(options)
            if option.name not in shown.parameters
        ]
        vars(function)["__signature__"] = shown.replace(parameters=[*named, *listed, rest])
        function.__doc__ = f"{getdoc(function)}\n\nOptions:\n{_meanings(options)}"
        return function

    return decorate


def _meanings(options: type[LoadingOptions]) -> str:
    """Return what each option means, from the docstrings of the class and its parents."""
    classes = [parent for parent in reversed(options.__mro__) if issubclass(parent, LoadingOptions)]
    texts = [(getdoc(parent) or "").partition("Args:\n")[2].partition("\n\n")[0] for parent in classes]
    return "\n".join(texts)
