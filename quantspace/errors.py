"""What can go wrong, as a person would want to be told it.

    QuantSpaceError
    ├── BadInput          a field of the form or of a call (what was given, what is accepted)
    │   ├── BadModelId
    │   ├── UnknownGpu
    │   └── BadWorkload
    ├── ModelUnavailable  the model cannot be had
    │   ├── ModelNotFound       it, its revision or its file does not exist, or not for who asks
    │   ├── ModelDisabled       taken down by its authors or by the Hub
    │   ├── ModelGated          its files are open to those alone who were let in, and
    │   │   ├── NotSignedIn         the question came with no token
    │   │   ├── TermsNotAccepted    the account has not accepted the terms
    │   │   ├── AwaitingReview      the authors have not decided yet
    │   │   ├── AccessRejected      the authors have said no
    │   │   └── TokenLacksScope     the account is let in, this token is not
    │   ├── TokenRefused        the Hub does not know the token, or no longer
    │   │   └── TokenMalformed      not sent at all: no token looks like it
    │   └── HubUnreachable      nothing of use came back
    │       ├── HubTimedOut
    │       ├── HubDown             it answered with an error of its own
    │       ├── RateLimited
    │       ├── RedirectLoop
    │       ├── BodyBrokeOff
    │       └── GarbledAnswer       not what was asked for, or not how
    ├── ModelUnsupported  the model is there, but its architecture cannot be built or loaded here
    ├── LoadFailed        the weights could not be loaded
    │   └── OutOfMemory
    ├── DiskFull          it ran full; what was being written has been removed
    ├── KeepFailed        a quantized copy could not be kept, or not be sent to the Hub
    │   └── NameTaken           the Hub has a repository of that name
    ├── MeasurementFailed  what a precision costs in quality could not be measured
    └── ChatFailed        generation stopped with an error
        └── EngineUnreachable   an engine elsewhere gave no answer

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


class ModelDisabled(ModelUnavailable):
    code = "model_disabled"


class NotSignedIn(ModelGated):
    code = "not_signed_in"


class TermsNotAccepted(ModelGated):
    code = "terms_not_accepted"


class AwaitingReview(ModelGated):
    code = "awaiting_review"


class AccessRejected(ModelGated):
    code = "access_rejected"


class TokenLacksScope(ModelGated):
    code = "token_lacks_scope"


class TokenRefused(ModelUnavailable):
    code = "token_refused"


class TokenMalformed(TokenRefused):
    code = "token_malformed"


class HubUnreachable(ModelUnavailable):
    code = "hub_unreachable"


class HubTimedOut(HubUnreachable):
    code = "hub_timed_out"


class HubDown(HubUnreachable):
    code = "hub_down"


class RateLimited(HubUnreachable):
    code = "rate_limited"


class RedirectLoop(HubUnreachable):
    code = "redirect_loop"


class BodyBrokeOff(HubUnreachable):
    code = "body_broke_off"


class GarbledAnswer(HubUnreachable):
    code = "garbled_answer"


class ModelUnsupported(QuantSpaceError):
    code = "model_unsupported"


class LoadFailed(QuantSpaceError):
    code = "load_failed"


class OutOfMemory(LoadFailed):
    code = "out_of_memory"


class MeasurementFailed(QuantSpaceError):
    code = "measurement_failed"


class KeepFailed(QuantSpaceError):
    code = "keep_failed"


class DiskFull(QuantSpaceError):
    code = "disk_full"


class NameTaken(KeepFailed):
    code = "name_taken"


class ChatFailed(QuantSpaceError):
    code = "chat_failed"


class EngineUnreachable(ChatFailed):
    code = "engine_unreachable"


def shorten(text: str, limit: int = 80) -> str:
    """`text` cut to `limit` printable characters for use inside a message: input may be anything."""
    flat = "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text[: 4 * limit].split()))
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def stored_quantized(model_id: str, method: str) -> LoadFailed:
    """Why a checkpoint that is stored quantized is not loaded in another way."""
    return LoadFailed(
        f"{model_id} is stored quantized already ({method}); this app makes nothing else of it.",
        "Load it as published, or the repository of the original weights, which are quantized while loading.",
    )
