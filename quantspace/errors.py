"""What can go wrong, as a person would want to be told it.

    QuantSpaceError
    ├── BadInput          a field of the form or of a call (what was given, what is accepted)
    │   ├── BadModelId
    │   ├── UnknownGpu
    │   └── BadWorkload
    ├── ModelUnavailable  the model cannot be had
    │   ├── ModelNotFound
    │   ├── ModelGated
    │   └── HubUnreachable
    ├── ModelUnsupported  the model is there, but its architecture cannot be built or loaded here
    ├── LoadFailed        the weights could not be loaded
    │   └── OutOfMemory
    └── ChatFailed        generation stopped with an error

Every error carries a stable `code`, a `message` that says what was found, and a `hint` that says
what to do next. Errors cross process borders and APIs as the dictionary of `as_data`, never as
stack traces.
"""

from __future__ import annotations


class QuantSpaceError(Exception):
    """Base of all errors that are shown to people.

    Args:
        message: one sentence: what was found, and what is wrong with it.
        hint: one sentence: the next step.
    """

    code = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_data(self) -> dict[str, str]:
        """`{"code", "message", "hint"}`: the shape in which an error leaves the process."""
        return {"code": self.code, "message": self.message, "hint": self.hint}

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class BadInput(QuantSpaceError):
    code = "bad_input"


class BadModelId(BadInput):
    code = "bad_model_id"


class UnknownGpu(BadInput):
    code = "unknown_gpu"


class BadWorkload(BadInput):
    code = "bad_workload"


class ModelUnavailable(QuantSpaceError):
    code = "model_unavailable"


class ModelNotFound(ModelUnavailable):
    code = "model_not_found"


class ModelGated(ModelUnavailable):
    code = "model_gated"


class HubUnreachable(ModelUnavailable):
    code = "hub_unreachable"


class ModelUnsupported(QuantSpaceError):
    code = "model_unsupported"


class LoadFailed(QuantSpaceError):
    code = "load_failed"


class OutOfMemory(LoadFailed):
    code = "out_of_memory"


class ChatFailed(QuantSpaceError):
    code = "chat_failed"


def shorten(text: str, limit: int = 80) -> str:
    """`text` cut to `limit` printable characters for use inside a message: input may be anything."""
    flat = "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text[: 4 * limit].split()))
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def stored_quantized(model_id: str, method: str) -> LoadFailed:
    """Why a checkpoint that is stored quantized is not loaded."""
    return LoadFailed(
        f"{model_id} is stored quantized already ({method}); it can be estimated, not yet loaded.",
        "Load the repository of the original weights: this app quantizes them while loading.",
    )
