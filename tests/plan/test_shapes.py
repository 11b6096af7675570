"""From a number of parameters to layers, width and heads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.plan.shapes import model_of


@pytest.mark.parametrize(
    ("parameters", "layers", "width", "heads", "feed_forward"),
    [
        (8.03e9, 32, 4096, 32, 14336),
        (70.6e9, 80, 8192, 64, 28672),
    ],
)
def test_the_rule_gives_llama_3(parameters: float, layers: int, width: int, heads: int, feed_forward: int) -> None:
    """Table 3 of arXiv:2407.21783, on which it was made."""
    model = model_of(parameters)
    assert (model.layers, model.width, model.heads, model.feed_forward) == (layers, width, heads, feed_forward)
    assert model.kv_heads == 8


def test_llama_3_405b_is_met_in_its_order() -> None:
    """126 layers of 16,384: its MLP is a little narrower than the rule's."""
    model = model_of(405e9)
    assert model.layers == pytest.approx(126, rel=0.1)
    assert model.width == pytest.approx(16384, rel=0.1)


@given(exponent=st.floats(8.4, 13.9))
def test_size_and_shape_are_what_was_asked(exponent: float) -> None:
    parameters = 10.0**exponent
    model = model_of(parameters)
    assert model.parameters == pytest.approx(parameters, rel=0.06)
    assert 40 < model.width / model.layers < 250
    assert model.width == model.heads * 128
    assert model.heads % (model.kv_heads or 1) == 0
    assert model.layers % 2 == 0
    if model.width >= 4096:
        assert model.heads % 8 == 0
        assert model.layers % 4 == 0


def test_names_are_names() -> None:
    assert model_of(67e9).name == "dense-67b"
    assert model_of(1.24e9).name == "dense-1-24b"
    assert model_of(1e12).name == "dense-1t"
    assert model_of(67e9, name="mine").name == "mine"


def test_what_the_rule_cannot_do_is_refused() -> None:
    with pytest.raises(SpecError, match="holds from"):
        model_of(1e6)
    with pytest.raises(SpecError, match="leaves no room"):
        model_of(25e6)
    assert model_of(25e6, vocabulary=256).parameters == pytest.approx(25e6, rel=0.3)
