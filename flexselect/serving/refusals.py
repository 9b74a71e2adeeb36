"""Refused requests, in the form of OpenAI's errors."""

from __future__ import annotations

from typing import Any

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: the HTTP status.
        reason: what is wrong, and what to do.
        param: the field of the request that it is about; None: no single field.
        code: a short name of the reason, for programs.
        retry_after: seconds after which the same request may be answered; None: it will not be.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.status, self.reason, self.param, self.code = status, reason, param, code
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status == 401:
            self.headers["WWW-Authenticate"] = 'Basic realm="flexselect"'

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it."""
        kind = KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.reason, "type": kind, "param": self.param, "code": self.code}}


def bad(reason: str, param: str | None = None, code: str | None = None) -> RefusedError:
    """Return the refusal of a request that must be changed."""
    return RefusedError(400, reason, param, code)


def internal(error: Exception) -> RefusedError:
    """Return the refusal for an error of the server's, without its text, which may name files."""
    return RefusedError(500, f"the server failed ({type(error).__name__}); its log says where", code="internal")
