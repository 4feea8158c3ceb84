"""What the figures say, in words: each sentence follows from the numbers it is given, whichever way they turn out."""

from __future__ import annotations

from collections.abc import Iterator

from ..units import exact, gb
from .experiments import CONTROL, KINDS, PTQ, QAT, DynamicResult, LowBitsResult, PrunedModel, PruningResult, Shrunk

FAITHFUL = 0.99  # share of tokens still right that counts as unharmed
ALIKE = 0.1  # two figures that differ by less than this share are told as alike


def of_dynamic(result: DynamicResult) -> list[str]:
    """Of the files, of the outputs, of the seconds."""
    if not result.rows:
        return []
    return [_files(result.rows), *_left(result.rows), _outputs(result.rows), _passes(result.rows)]


def of_pruning(result: PruningResult) -> list[str]:
    """Of the layer's bytes and seconds, then of the model's loss."""
    return [*_layer(result), *_curve(result)]


def of_low_bits(result: LowBitsResult) -> list[str]:
    """Of rounding, of training with it, of training without it."""
    before, after, trained, control = (result.states[0], *(result.state(name) for name in (PTQ, QAT, CONTROL)))
    if after is None:
        return []
    said = [
        f"Rounding to {result.bits} bits takes the loss from {loss(before.loss)} to {loss(after.loss)}, and the tokens "
        f"it gets right from {before.right:.1%} to {after.right:.1%}."
    ]
    if trained is None:
        return said
    if after.right >= FAITHFUL:
        said.append(f"That harms little, so there is little to win back: trained, the loss is {loss(trained.loss)}.")
    elif trained.loss < after.loss:
        won = (after.loss - trained.loss) / (after.loss - before.loss)
        said.append(
            f"{len(result.curve)} steps with rounded weights bring it to {loss(trained.loss)}: {won:.0%} of the harm "
            f"is undone, in {result.seconds:.0f} s and without one byte more."
        )
    else:
        said.append(f"{len(result.curve)} steps did not help: the loss is {loss(trained.loss)}. Give it more.")
    if control is not None:
        said.append(_against_control(trained.loss, control.loss))
    return said


def loss(value: float) -> str:
    """Three digits that count: `0.00026`, `0.563`, `12.3`."""
    return f"{value:.3g}" if value >= 0.001 else f"{value:.5f}"


def _against_control(trained: float, control: float) -> str:
    began = f"The same steps without rounding, rounded at the end, give {loss(control)}: "
    if alike(trained, control):
        return began + "it is the training that matters here, rounded or not."
    if trained < control:
        return began + "it is training with the rounding in sight that helps."
    return began + "here training without rounding serves better."


def _files(rows: tuple[Shrunk, ...]) -> str:
    shares = {row.kind: row.saved_after / row.saved_before for row in rows}
    best = min(shares, key=lambda kind: shares[kind])
    if len(rows) == 1:
        return f"The file shrinks to {shares[best]:.1%}; a quarter would be every byte in int8."
    return (
        f"The files shrink to between {min(shares.values()):.1%} and {max(shares.values()):.1%}; nearest to the "
        f"quarter that int8 promises is: {KINDS[best]}."
    )


def _left(rows: tuple[Shrunk, ...]) -> Iterator[str]:
    for row in rows:
        overhead = row.saved_after - row.left_bytes - (row.held_bytes - row.left_bytes) // 4
        if row.left_bytes > row.held_bytes / 100:
            yield (
                f"{KINDS[row.kind]}: {exact(row.left_bytes)} of its {exact(row.held_bytes)} stay in fp32, being "
                "neither an LSTM's nor a Linear's (embeddings, norms)."
            )
        elif overhead > row.saved_after / 4:
            yield (
                f"{KINDS[row.kind]}: {exact(overhead)} of the {exact(row.saved_after)} are no int8 weights: scales, "
                "biases, and the names in the archive."
            )


def _outputs(rows: tuple[Shrunk, ...]) -> str:
    worst = max(rows, key=lambda row: row.difference / row.scale)
    said = f"Outputs move by at most {worst.difference / worst.scale:.1%} of the largest one ({KINDS[worst.kind]})"
    with_loss = next((row for row in rows if row.loss_before is not None and row.loss_after is not None), None)
    if with_loss is None:
        return said + "."
    return f"{said}; the chat model's loss goes from {loss(with_loss.loss_before)} to {loss(with_loss.loss_after)}."


def _passes(rows: tuple[Shrunk, ...]) -> str:
    return "A pass in int8: " + "; ".join(f"{KINDS[row.kind]} {_speed(row)}" for row in rows) + "."


def _speed(row: Shrunk) -> str:
    if alike(row.seconds_after, row.seconds_before):
        return "takes as long as before"
    ratio = row.seconds_before / row.seconds_after
    return f"{ratio:.1f} times as fast" if ratio > 1 else f"{1 / ratio:.1f} times as slow"


def _layer(result: PruningResult) -> Iterator[str]:
    plain, masked, permanent, csr, zeroed, rebuilt = result.states
    share = f"{result.sparsity:.0%}"
    saved = plain.held_bytes - permanent.held_bytes
    yield (
        f"Zeroing {share} of the layer's weights saves {exact(saved)}, scattered or in whole rows; while the mask is "
        f"held it takes {masked.held_bytes / plain.held_bytes:.1f} times the memory."
    )
    yield (
        f"Without its zeros, as CSR, it takes {_compared(csr.held_bytes, plain.held_bytes)}. Rebuilt without the rows "
        f"it takes {rebuilt.held_bytes / plain.held_bytes:.0%}, in any program."
    )
    if alike(zeroed.seconds, plain.seconds):
        time = "Zeros are multiplied like any number, so they save no time"
    else:
        time = f"With the rows zeroed a pass takes {zeroed.seconds / plain.seconds:.0%} of the time"
    yield f"{time}; rebuilt, a pass takes {rebuilt.seconds / plain.seconds:.0%}."


def _compared(size: int, plain: int) -> str:
    if alike(size, plain):
        return f"about as much ({size / plain:.0%}), for every value brings an index"
    return f"{'less' if size < plain else 'more'}: {size / plain:.0%}"


def _curve(result: PruningResult) -> Iterator[str]:
    if not result.models:
        return
    scattered = _harmless(result.models, "right_scattered")
    neurons = _harmless(result.models, "right_rebuilt")
    yield (
        f"The chat model keeps {FAITHFUL:.0%} of its tokens right with {_share(scattered)} zeroed where they are "
        f"smallest, and with {_share(neurons)} taken out as whole neurons."
    )
    if neurons is not None:
        saved = result.held_bytes - neurons.held_rebuilt
        yield f"Only the second saves anything: {exact(saved)} of {exact(result.held_bytes)} ({gb(saved)})."


def _harmless(models: tuple[PrunedModel, ...], figure: str) -> PrunedModel | None:
    """The most pruned of those that are unharmed, as are all that are pruned less."""
    found = None
    for model in models:
        if getattr(model, figure) < FAITHFUL:
            break
        found = model
    return found


def _share(model: PrunedModel | None) -> str:
    return "none of those tried" if model is None else f"up to {model.sparsity:.0%} of the feed-forward weights"


def alike(one: float, other: float) -> bool:
    """Whether two figures are the same within what a measurement of time is worth."""
    return abs(one - other) <= ALIKE * max(one, other)
