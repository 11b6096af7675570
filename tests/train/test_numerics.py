"""Norms, the optimizer and the model: the same bits on every layout."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st

from myriarch.spec.model import Model
from myriarch.spec.run import Optimizer
from myriarch.train.model import Decoder, fill_initial, loss_sum_of
from myriarch.train.norm import largest_magnitude, norm_of, square_limbs
from myriarch.train.optimizer import AdamW, learning_rate_at

SMALL = Model(name="small", layers=2, width=16, heads=4, kv_heads=2, context_tokens=12)
floats = st.floats(-(2.0**100), 2.0**100, width=32)


def norm_by_parts(values: torch.Tensor, cuts: list[int]) -> float:
    edges = [0, *sorted(cuts), values.numel()]
    parts = [values[a:b] for a, b in pairwise(edges)]
    maximum = max(largest_magnitude(part) for part in parts)
    limbs = [square_limbs(part, maximum=maximum, elements=values.numel()) for part in parts]
    sums = sum(upper for upper, _ in limbs), sum(lower for _, lower in limbs)
    return norm_of(sums, maximum=maximum, elements=values.numel())


@given(st.lists(floats, min_size=1, max_size=50), st.lists(st.integers(0, 50), max_size=3))
def test_the_norm_does_not_depend_on_the_split(numbers: list[float], cuts: list[int]) -> None:
    values = torch.tensor(numbers, dtype=torch.float32)
    whole = norm_by_parts(values, [])
    assert norm_by_parts(values, [min(cut, len(numbers)) for cut in cuts]) == whole
    assert whole == pytest.approx(math.hypot(*values.tolist()), rel=1e-7)


def test_the_norm_keeps_small_elements_beside_a_large_one() -> None:
    values = torch.full((200_000,), 1e-5)
    values[77] = 1.0
    assert norm_by_parts(values, [1000]) == pytest.approx(math.sqrt(1.0 + 199_999 * 1e-10), rel=1e-9)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_seen(bad: float) -> None:
    values = torch.zeros(10)
    values[3] = bad
    assert largest_magnitude(values) == math.inf
    assert largest_magnitude(torch.zeros(0)) == 0.0
    assert norm_by_parts(torch.zeros(5), [2]) == 0.0


def adamw_after(steps: int, cuts: list[int]) -> torch.Tensor:
    """Five hundred parameters cut into shards at `cuts`, after some steps."""
    generator = torch.Generator().manual_seed(3)
    start, gradient = (torch.randn(500, 1, generator=generator) for _ in range(2))
    edges = [0, *cuts, 500]
    shards = [[source[a:b].clone() for a, b in pairwise(edges)] for source in (start, gradient)]
    means, squares = ([torch.zeros_like(shard) for shard in shards[0]] for _ in range(2))
    spec = Optimizer()
    optimizer = AdamW(shards[0], means, squares, spec=spec)
    for step in range(steps):
        optimizer.update([g * (1 + 0.1 * step) for g in shards[1]], step=step, learning_rate=1e-2)
    return torch.cat(shards[0])


@pytest.mark.parametrize("cuts", [[1], [250], [7, 8, 9, 333], list(range(1, 40))])
def test_adamw_has_the_same_bits_on_every_layout(cuts: list[int]) -> None:
    assert torch.equal(adamw_after(5, []), adamw_after(5, cuts))


def test_adamw_is_the_papers() -> None:
    """Loshchilov and Hutter, ICLR 2019, algorithm 2, in fp64."""
    generator = torch.Generator().manual_seed(3)
    value, gradient = (torch.randn(500, 1, generator=generator).double() for _ in range(2))
    spec = Optimizer()
    mean = square = torch.zeros_like(value)
    for step in range(1, 6):
        now = gradient * (1 + 0.1 * (step - 1))
        mean = spec.beta1 * mean + (1 - spec.beta1) * now
        square = spec.beta2 * square + (1 - spec.beta2) * now**2
        update = (mean / (1 - spec.beta1**step)) / ((square / (1 - spec.beta2**step)).sqrt() + spec.epsilon)
        value = value - 1e-2 * (update + spec.weight_decay * value)
    assert torch.allclose(adamw_after(5, []).double(), value, rtol=1e-5, atol=1e-7)


def test_the_learning_rate_warms_up_and_falls() -> None:
    spec = Optimizer(learning_rate=1.0, minimum_learning_rate=0.1, warmup_steps=4)
    rates = [learning_rate_at(step, steps=20, optimizer=spec) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert learning_rate_at(0, steps=1, optimizer=Optimizer(warmup_steps=0, learning_rate=1.0)) == pytest.approx(1e-4)


# --- the model -------------------------------------------------------------------------------------------------------


def decoder_of(model: Model, *, seed: int = 0) -> Decoder:
    decoder = Decoder(model)
    with torch.no_grad():
        decoder.fill_tables()
        for name, parameter in decoder.named_parameters():
            offsets = (0,) * parameter.dim()
            fill_initial(name, parameter, shape=parameter.shape, offsets=offsets, seed=seed, layers=model.layers)
    return decoder


@pytest.mark.parametrize("tied", [True, False])
def test_the_model_has_the_parameters_that_its_spec_says(tied: bool) -> None:
    model = Model(name="m", layers=2, width=16, heads=4, kv_heads=2, context_tokens=12, tied_embeddings=tied)
    assert sum(parameter.numel() for parameter in decoder_of(model).parameters()) == model.parameters


def test_a_shard_of_initial_weights_is_a_part_of_the_whole() -> None:
    shape = torch.Size((6, 5))
    whole, part = torch.empty(shape), torch.empty(2, 3)
    fill_initial("layers.0.x.weight", whole, shape=shape, offsets=(0, 0), seed=1, layers=2)
    fill_initial("layers.0.x.weight", part, shape=shape, offsets=(3, 1), seed=1, layers=2)
    assert torch.equal(whole[3:5, 1:4], part)
    fill_initial("layers.0.y.weight", part, shape=shape, offsets=(3, 1), seed=1, layers=2)
    assert not torch.equal(whole[3:5, 1:4], part)


def test_the_future_does_not_reach_the_past() -> None:
    decoder = decoder_of(SMALL)
    tokens = torch.arange(12).view(1, 12)
    changed = tokens.clone()
    changed[0, 8] = 99
    with torch.no_grad():
        one, other = decoder(tokens), decoder(changed)
    assert torch.equal(one[0, :8], other[0, :8])
    assert not torch.equal(one[0, 8:], other[0, 8:])


def test_positions_matter() -> None:
    decoder = decoder_of(SMALL)
    with torch.no_grad():
        logits = decoder(torch.tensor([[5, 7, 5, 7, 5, 7]]))
    assert not torch.allclose(logits[0, 1], logits[0, 3])


def test_the_loss_is_a_sum_and_starts_near_uniform() -> None:
    windows = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 13)))
    logits = decoder_of(SMALL)(windows[:, :-1])
    loss = loss_sum_of(logits, windows[:, 1:]).detach()
    assert float(loss) == pytest.approx(4 * 12 * math.log(256), rel=0.02)
    mean = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).detach()
    assert float(loss) == pytest.approx(48 * float(mean), rel=1e-5)
