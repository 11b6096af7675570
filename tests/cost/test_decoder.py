"""From a model file to the decoder of the formulas: nothing is lost on the way."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from myriarch.cost.arrays import stacked
from myriarch.cost.decoder import Decoder
from myriarch.spec.model import Mixture, Model, Window
from myriarch.spec.models import lookup_model, models


@pytest.mark.parametrize("model", models().values(), ids=lambda model: model.name)
def test_has_every_parameter_of_the_model(model: Model) -> None:
    decoder = Decoder.of(model)
    assert float(decoder.parameters) == model.parameters
    assert float(decoder.active_parameters) == pytest.approx(model.active_parameters, rel=4e-3)
    assert abs(float(decoder.other_parameters)) < 0.003 * model.parameters, "what the formulas do not see is little"


def test_maps_latent_attention_and_experts() -> None:
    decoder = Decoder.of(lookup_model("deepseek-v3"))
    assert (decoder.query_rank, decoder.kv_rank, decoder.rope_width, decoder.value_width) == (1536, 512, 64, 128)
    assert decoder.head_width == 192
    assert (decoder.experts, decoder.top_k, decoder.shared_experts, decoder.dense_layers) == (256, 8, 1, 3)
    assert float(decoder.mixture_layers) == 58
    assert float(decoder.attention_parameters) * 61 == lookup_model("deepseek-v3").weights.attention


def test_latent_attention_without_a_rank_of_the_queries() -> None:
    model = lookup_model("deepseek-v2-lite")
    assert float(Decoder.of(model).attention_parameters) * model.layers == model.weights.attention


def test_a_window_cuts_its_share_of_the_layers() -> None:
    model = lookup_model("gpt-oss-120b")
    assert float(Decoder.of(model).attended_tokens(4096.0)) == (4096 + 256) / 2
    every = msgspec.structs.replace(model, window=Window(tokens=128))
    assert float(Decoder.of(every).attended_tokens(4096.0)) == 256
    assert float(Decoder.of(every).attended_tokens(64.0)) == 64


def test_a_mixture_without_dense_layers_has_no_wider_mlp_than_an_expert() -> None:
    assert Decoder.of(lookup_model("mixtral-8x7b")).feed_forward == 14336
    mixture = Mixture(experts=8, top_k=2, expert_feed_forward=64, capacity_factor=1.25)
    model = Model(name="m", layers=2, width=64, heads=2, context_tokens=8, mixture=mixture)
    assert Decoder.of(model).capacity_factor == 1.25
    assert Decoder.of(model).feed_forward == 64


def test_many_decoders_stand_in_arrays() -> None:
    some = [Decoder.of(model) for model in models().values()]
    parameters = np.array([float(decoder.parameters) for decoder in some])
    np.testing.assert_allclose(stacked(some).parameters, parameters, rtol=1e-12)
