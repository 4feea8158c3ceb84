"""What is said follows from the figures, whichever way they turn out."""

from dataclasses import replace

from quantspace.lab.conclusions import of_dynamic, of_low_bits, of_pruning
from quantspace.lab.experiments import (
    AS_IS,
    CONTROL,
    PTQ,
    QAT,
    DynamicResult,
    LayerState,
    LowBitsResult,
    PrunedModel,
    PruningResult,
    Rounded,
    Shrunk,
)


def rounded(name: str, loss: float, right: float = 0.5) -> Rounded:
    return Rounded(name, loss, right, 1000, "")


def low_bits(after: float, trained: float, control: float, right: float = 0.5) -> str:
    states = (
        rounded(AS_IS, 0.1, 1.0),
        rounded(PTQ, after, right),
        rounded(QAT, trained),
        rounded(CONTROL, control),
    )
    return " ".join(of_low_bits(LowBitsResult(2, "?", 10, states, (1.0, 0.5), 0, 3.0)))


def test_the_share_of_the_harm_undone_is_told():
    assert "2 steps with rounded weights bring it to 0.6: 75% of the harm is undone" in low_bits(2.1, 0.6, 1.5)


def test_training_that_does_not_help_is_told():
    assert "did not help" in low_bits(2.0, 2.5, 3.0)


def test_rounding_that_harms_little_is_told():
    assert "harms little" in low_bits(0.11, 0.1, 0.1, right=0.999)


def test_the_comparison_decides_what_helped():
    assert "rounding in sight that helps" in low_bits(2.0, 0.5, 1.5)
    assert "it is the training that matters" in low_bits(2.0, 0.5, 0.52)
    assert "without rounding serves better" in low_bits(2.0, 0.9, 0.5)


def test_a_run_that_was_stopped_says_what_it_knows():
    stopped = LowBitsResult(2, "?", 10, (rounded(AS_IS, 0.1, 1.0), rounded(PTQ, 2.0)))
    assert len(of_low_bits(stopped)) == 1
    assert of_low_bits(replace(stopped, states=stopped.states[:1])) == []


def shrunk(before: float, after: float) -> Shrunk:
    return Shrunk("transformer", 1000, 260, 960, 0, 0.1, 2.0, before, after)


def test_faster_slower_and_alike_are_told_apart():
    assert "2.0 times as fast" in " ".join(of_dynamic(DynamicResult("x86", (shrunk(2.0, 1.0),))))
    assert "2.0 times as slow" in " ".join(of_dynamic(DynamicResult("x86", (shrunk(1.0, 2.0),))))
    assert "takes as long as before" in " ".join(of_dynamic(DynamicResult("x86", (shrunk(1.0, 1.02),))))


def pruning(csr: int, right: float) -> str:
    held = (100, 200, 100, csr, 100, 50)
    states = tuple(LayerState(str(at), size, size, 1.0, 1.0) for at, size in enumerate(held))
    models = tuple(PrunedModel(share, 1, 1, 1.0, right, 1000, 900) for share in (0.1, 0.2))
    return " ".join(of_pruning(PruningResult(0.5, (4, 4), states, 0.1, 1.0, 1000, 10, models)))


def test_csr_is_told_as_more_or_less_by_its_bytes():
    assert "as CSR, it takes more: 250%" in pruning(250, 1.0)
    assert "as CSR, it takes less: 40%" in pruning(40, 1.0)


def test_what_pruning_saves_without_harm_is_told_in_bytes():
    assert "taken out as whole neurons. Only the second saves anything: 100 B of 1,000 B" in pruning(250, 1.0)


def test_pruning_that_always_harms_saves_nothing_harmlessly():
    said = pruning(250, 0.5)
    assert "none of those tried taken out" in said
    assert "Only the second" not in said
