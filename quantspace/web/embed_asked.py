"""What the address of an embed asks for: the calculator's state and the embed's options, read together."""

from __future__ import annotations

from dataclasses import dataclass, replace

from starlette.datastructures import QueryParams

from ..errors import QuantSpaceError, shorten
from ..estimation.calculator import hardware_and_workload
from ..share.links import DEFAULT, State, embed_url, from_query, page_url, public_base
from .embed_options import NAMES, Options, read_options

EXAMPLE = "google/gemma-3-4b-it"  # of the bundled models: what is shown where none is named
PART = "part"  # its value `answer` asks for that part of a page alone

# Fields of the calculator by what `hardware_and_workload` calls them, which says what is wrong with a value.
_COUNTED = {
    "gpu": "gpu", "count": "gpu_count", "context": "context", "batch": "batch", "kv": "kv_dtype", "ram": "ram_gb",
    "images": "images",
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What an address asks for.

    Attributes:
        ignored: sentences about what was not understood.
        base: the public address of this app.
    """

    state: State
    options: Options
    ignored: tuple[str, ...]
    base: str

    @property
    def embed(self) -> str:
        """The public address of this embed."""
        return embed_url(self.base, self.state, **self.options.parameters())

    @property
    def query(self) -> str:
        """The shortest query that asks for the same."""
        return self.embed.partition("?")[2]

    @property
    def page(self) -> str:
        """The full page with the same state."""
        return page_url(self.base, self.state)


def read_asked(given: QueryParams, requested: str) -> Asked:
    """The state and the options of a query, and what is wrong with it.

    Args:
        requested: the address that the request came to, without a path.
    """
    state, names = from_query(given, also=(*NAMES, PART))
    options, ignored = read_options(given)
    if not state.model and "model" not in given:
        state = replace(state, model=EXAMPLE)
    told = [_wrong(name, given.getlist(name)) for name in names]
    return Asked(replace(state, tab=""), options, (*told, *ignored), public_base(requested))


def _wrong(name: str, values: list[str]) -> str:
    """Why a parameter was ignored, and what is counted instead."""
    if name in _COUNTED and values:
        plain = {"gpu": DEFAULT.gpu, "gpu_count": 1, "context": 1, "batch": 1, "kv_dtype": "auto", "ram_gb": 0}
        try:
            hardware_and_workload(**(plain | {_COUNTED[name]: values[-1]}))
        except QuantSpaceError as error:
            return f"{error} Here {name} is {getattr(DEFAULT, name)}."
    return f"“{shorten(name, 40)}” in the address was not understood, and is ignored."
