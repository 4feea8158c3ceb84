"""Chat through an engine elsewhere that speaks OpenAI's protocol: vLLM, SGLang, TGI, `transformers serve`.

For models that no single machine holds. Engines are named in settings by who runs the app: a visitor picks one of
them, and can't send this server to an address of his own. Nothing is loaded or measured here.
"""

from __future__ import annotations

import base64
import mimetypes
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from httpx2 import HTTPError, InvalidURL
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError
from huggingface_hub.utils import get_session

from ..errors import BadInput, ChatFailed, EngineUnreachable, QuantSpaceError, shorten
from ..settings import settings
from .frames import WordStream
from .job import Message, Sampling, Stats, Text

# No connection, a refusal, and an answer that is not a list of models.
_NO_LIST = (HTTPError, InvalidURL, OSError, ValueError, KeyError, TypeError)
_NO_KEY = "none"  # without a key of its own the client would send this machine's Hugging Face token


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine as settings name it.

    Attributes:
        url: its base, up to and with `/v1`.
        model: what it serves; empty: ask it.
    """

    name: str
    url: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """What a chat talks to, in place of a `Job`."""

    engine: Engine
    model_id: str

    @property
    def precision(self) -> str:
        """Where it runs, which the page shows in place of a precision."""
        return self.engine.name


def engines() -> tuple[Engine, ...]:
    """The engines that settings name: `name = URL [model]`, several apart by `;`.

    Raises:
        ValueError: an entry is not of this form.
    """
    return tuple(_engine(entry) for entry in settings().engines.split(";") if entry.strip())


def _engine(entry: str) -> Engine:
    name, _, rest = entry.partition("=")
    url, _, model = rest.strip().partition(" ")
    if not name.strip() or not url.startswith(("http://", "https://")):
        raise ValueError(f"QUANTSPACE_ENGINES: “{shorten(entry, 80)}” is not “name = https://host/v1 [model]”.")
    return Engine(name.strip(), url.rstrip("/"), model.strip())


def served_models(engine: Engine) -> tuple[str, ...]:
    """Ids of the models that an engine serves.

    Raises:
        EngineUnreachable: it gave no answer of use.
    """
    if engine.model:
        return (engine.model,)
    try:
        answer = get_session().get(
            f"{engine.url}/models",
            headers={"Authorization": f"Bearer {settings().engine_key or _NO_KEY}"},
            timeout=settings().hub_timeout,
        )
        answer.raise_for_status()
        return tuple(str(model["id"]) for model in answer.json()["data"])
    except _NO_LIST as error:
        raise _unreachable(engine, error) from error


def find_target(name: str, model: str) -> RemoteModel:
    """What a chat talks to, from the names that the page sends.

    Raises:
        BadInput: no such engine is named in settings.
    """
    engine = next((engine for engine in engines() if engine.name == name), None)
    if engine is None:
        raise BadInput(f"“{shorten(str(name), 40)}” is not an engine of this app.", "Pick one from the list.")
    if not model:
        raise BadInput(f"{engine.name} was asked for no model.", "Type the id of one that it serves.")
    return RemoteModel(engine, model)


def answer(target: RemoteModel, messages: Sequence[Message], sampling: Sampling) -> Iterator[Text | Stats]:
    """Stream the engine's answer; the last event is its statistics. Closing the iterator ends the request.

    Raises:
        EngineUnreachable, ChatFailed: with what the engine said.
    """
    words = WordStream(target.engine.name)
    arguments = (target, _request(target, messages, sampling), words)
    # In a thread of its own: until the first word nothing else would notice a stop.
    threading.Thread(target=_read, args=arguments, daemon=True, name="remote-chat").start()
    yield from words.events()


def _read(target: RemoteModel, request: dict[str, Any], words: WordStream) -> None:
    try:
        with InferenceClient(
            base_url=target.engine.url,
            api_key=settings().engine_key or _NO_KEY,
            timeout=settings().engine_timeout,
        ) as client:
            for chunk in client.chat_completion(**request):
                if words.stop.is_set():
                    words.ended = "stopped"
                    return
                _take(chunk, words)
    except Exception as error:  # a thread's seam: the reading side raises it
        words.error = _as_ours(target, error)
    finally:
        words.close()


def _take(chunk: Any, words: WordStream) -> None:
    """One message of the stream: engines send a token in each, and what it took in the last."""
    for choice in chunk.choices[:1]:
        if choice.finish_reason == "length":
            words.ended = "length"
        if choice.delta.content:
            words.put(choice.delta.content)
    if chunk.usage is not None:
        words.prompt_tokens, words.tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens


def _request(target: RemoteModel, messages: Sequence[Message], sampling: Sampling) -> dict[str, Any]:
    greedy = sampling.greedy or sampling.temperature <= 0
    chosen = {"temperature": 0.0} if greedy else {"temperature": sampling.temperature, "top_p": sampling.top_p}
    return {
        "messages": [{"role": message.role, "content": _content(message)} for message in messages],
        "model": target.model_id,
        "max_tokens": int(sampling.max_new_tokens),
        "stream": True,
        "stream_options": {"include_usage": True},
        **chosen,
    }


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    images = [{"type": "image_url", "image_url": {"url": _data_url(Path(image))}} for image in message.images]
    return [*images, {"type": "text", "text": message.content}]


def _data_url(image: Path) -> str:
    kind = mimetypes.guess_type(image.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(image.read_bytes()).decode()}"


def _as_ours(target: RemoteModel, error: Exception) -> QuantSpaceError:
    response = getattr(error, "response", None)
    if isinstance(error, InferenceTimeoutError):
        return EngineUnreachable(
            f"{target.engine.name} sent nothing for {settings().engine_timeout:g} s.",
            "It may be loading the model: try again in a minute.",
        )
    if isinstance(error, HfHubHTTPError) and response is not None:
        said = shorten(response.text or str(error), 200)
        return ChatFailed(
            f"{target.engine.name} refused with HTTP {response.status_code}: {said}",
            "Shorten the conversation, or pick another model that it serves.",
        )
    if isinstance(error, OSError | ConnectionError) or type(error).__module__.startswith("httpx"):
        return _unreachable(target.engine, error)
    return ChatFailed(
        f"The answer of {target.engine.name} broke off: {type(error).__name__}: {shorten(str(error), 160)}",
        "Try again.",
    )


def _unreachable(engine: Engine, error: Exception) -> EngineUnreachable:
    return EngineUnreachable(
        f"{engine.name} can't be reached: {type(error).__name__}: {shorten(str(error), 160)}.",
        "Start it, or correct its address in QUANTSPACE_ENGINES.",
    )
