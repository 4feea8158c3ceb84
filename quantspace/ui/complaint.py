"""What went wrong, with the next step: its link can be followed, and where a token may help, it is asked for."""

from __future__ import annotations

from ..errors import QuantSpaceError
from ..runtime.job import Failed
from .access import may_need_token
from .render import render


def error_html(error: QuantSpaceError) -> str:
    """What went wrong, and the next step."""
    return _html(error.code, error.message, error.hint)


def failed_html(failed: Failed) -> str:
    """An error that came over the seam."""
    return _html(failed.code, failed.message, failed.hint)


def _html(code: str, message: str, hint: str) -> str:
    return render("error", code=code, message=message, hint=hint, token=may_need_token(code, hint))
