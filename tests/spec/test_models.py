"""Parameter counts against published ones, and the catalogue of models."""

from __future__ import annotations

import importlib.resources
from typing import Final

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from myriarch.errors import SpecError
from myriarch.spec.consistency import check_model
from myriarch.spec.document import read_document
from myriarch.spec.model import LatentAttention, Mixture, Model
from myriarch.spec.models import lookup_model, models

CHECKPOINTS: Final = {
    # Trainable parameters of the published checkpoints (safetensors' own count).
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-1-8b": 8_030_261_248,
    "llama-3-1-70b": 70_553_706_496,
    "llama-3-1-405b": 405_853_388_800,
    "llama-3-2-1b": 1_235_814_400,
    "gemma-7b": 8_537_680_896,
    "gemma-2-27b": 27_227_128_320,
    "qwen2-5-7b": 7_615_616_512,
    "qwen2-5-72b": 72_706_203_648,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "dbrx": 131_596_523_520,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v2": 235_741_434_880,
    "bloom-176b": 176_247_271_424 - 2 * 14336,  # a norm of the embedding is not counted
    "gpt-oss-120b": 116_829_156_672 - 36 * 64,  # nor a sink for each head
    # Nor the routing's bias, which no gradient trains.
    "deepseek-v3": 671_026_419_200 - 58 * 256,
    "kimi-k2": 1_026_408_232_448 - 60 * 384,
}

PRINTED: Final = [
    # name, total, active, whether the active ones include the embedding's look-up; in billions, as printed
    ("gpt3-175b", "174.6", "", False),  # arXiv:2005.14165, table D.1
    ("megatron-145b", "145.6", "", False),  # arXiv:2104.04473, table 1
    ("megatron-530b", "529.6", "", False),
    ("megatron-1t", "1008.0", "", False),
    ("palm-540b", "540.35", "", False),  # arXiv:2204.02311, table 1
    ("nemotron-4-340b", "341.0", "", False),  # arXiv:2406.11704, section 2: 9.4 in embeddings, 331.6 elsewhere
    ("mixtral-8x7b", "46.7", "12.9", True),  # mistral.ai, "Mixtral of experts"
    ("mixtral-8x22b", "141", "39", True),  # mistral.ai, "Cheaper, Better, Faster, Stronger"
    ("dbrx", "132", "36", True),  # databricks, "Introducing DBRX"
    ("qwen3-30b-a3b", "30.5", "3.3", True),  # its model card
    ("qwen3-235b-a22b", "235", "22", True),
    ("gpt-oss-20b", "20.91", "3.61", False),  # arXiv:2508.10925, table 1
    ("gpt-oss-120b", "116.83", "5.13", False),
    ("deepseek-v2-lite", "15.7", "2.4", False),  # arXiv:2405.04434, appendix B
    ("deepseek-v2", "236", "21", False),
    ("deepseek-v3", "671", "36.7", False),  # its README_WEIGHTS.md; the paper rounds to 37
]


@pytest.mark.parametrize(("name", "parameters"), CHECKPOINTS.items())
def test_counts_published_checkpoints_to_the_last_parameter(name: str, parameters: int) -> None:
    assert lookup_model(name).parameters == parameters


@pytest.mark.parametrize(("name", "total", "active", "looks_up"), PRINTED)
def test_counts_what_papers_print(name: str, total: str, active: str, looks_up: bool) -> None:
    model = lookup_model(name)
    assert is_printed_as(model.parameters / 1e9, total)
    look_up = model.weights.embedding if looks_up else 0
    assert not active or is_printed_as((model.active_parameters + look_up) / 1e9, active)


def is_printed_as(value: float, text: str) -> bool:
    """Whether they differ by less than one in the last digit: some round, some cut."""
    return abs(value - float(text)) < 10.0 ** -len(text.partition(".")[2])


def test_printed_counts_that_the_shape_does_not_give() -> None:
    """Grok-1's README: 314B, its shape: 315.7. Kimi K2's paper (arXiv:2507.20534) says 1.04T, its files 1.026T."""
    assert lookup_model("grok-1").parameters / 1e9 == pytest.approx(314, rel=0.006)
    assert lookup_model("kimi-k2").parameters / 1e12 == pytest.approx(1.04, rel=0.014)
    assert lookup_model("kimi-k2").active_parameters / 1e9 == pytest.approx(32.6, rel=0.03)


def test_gpt3_by_the_formula_of_megatron() -> None:
    """Narayanan et al. (arXiv:2104.04473), equation 2: P = 12 l h^2 (1 + 13/12h + (V + s)/(12 l h))."""
    model = lookup_model("megatron-1t")
    layers, width = model.layers, model.width
    body = 12 * layers * width**2 + 13 * layers * width + (model.vocabulary + model.context_tokens) * width
    assert model.parameters - body == 2 * width, "their formula leaves out the last norm"


@pytest.mark.parametrize(("name", "size"), [("dense-100b", 1e11), ("dense-500b", 5e11), ("dense-1t", 1e12)])
def test_round_models_follow_their_rule(name: str, size: float) -> None:
    model = lookup_model(name)
    assert model.width % 1024 == 0
    assert model.layers % 8 == 0
    assert model.head_width_resolved == 128
    assert model.kv_heads == 8
    assert model.feed_forward == -(-13 * model.width // 4 // 1024) * 1024
    one_layer = (model.weights.attention + model.weights.dense_mlp) // model.layers
    assert abs(model.parameters - size) <= 4 * one_layer, "no other multiple of 8 layers comes nearer"


def test_the_round_mixture_has_its_size() -> None:
    assert lookup_model("mixture-10t").parameters == pytest.approx(10e12, rel=0.02)


def test_every_model_fits_together_and_says_where_it_is_from() -> None:
    for model in models().values():
        told: list[str] = []
        check_model(model, tell=lambda path, message, told=told: told.append(f"{path}: {message}"))  # type: ignore[misc]
        assert not told, model.name
        assert model.source, model.name


def test_the_file_means_the_same_in_yaml_1_1_and_1_2() -> None:
    """It is read by libyaml's 1.1 for speed: none of the words that the two read differently may be in it."""
    text = importlib.resources.files("myriarch.spec").joinpath("data", "models.yaml").read_text("utf-8")
    assert yaml.safe_load(text) == read_document(text, format="yaml", source="models.yaml").value


@pytest.mark.parametrize("name", ["llama-3-1-405b", "Llama-3.1-405B", "llama3.1-405b", "llama_3_1_405b"])
def test_a_name_may_be_written_as_people_do(name: str) -> None:
    assert lookup_model(name).layers == 126


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lama-3.1-405b", "model `lama-3.1-405b` is not in the catalogue; did you mean `llama-3-1-405b`? write a"),
        ("dense", "model `dense` is not in the catalogue; use one of `dense-100b`, `dense-500b`, `dense-1t`, or write"),
        ("my-model", "model `my-model` is not in the catalogue; write a model file"),
    ],
)
def test_an_unknown_model_is_told_its_neighbours(name: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        lookup_model(name)
    assert str(caught.value).startswith(message)
    assert "`deepseek-v3`" in caught.value.hint


shapes = st.builds(
    Model,
    name=st.just("m"),
    layers=st.integers(1, 8),
    width=st.integers(1, 64),
    heads=st.integers(1, 8),
    context_tokens=st.integers(1, 64),
    activation=st.sampled_from(["swiglu", "geglu", "gelu", "relu2"]),
    positions=st.sampled_from(["rotary", "learned", "none"]),
    norm=st.sampled_from(["rmsnorm", "layernorm"]),
    biases=st.sampled_from(["none", "qkv", "all"]),
    tied_embeddings=st.booleans(),
    query_key_norm=st.booleans(),
    latent=st.none()
    | st.builds(
        LatentAttention,
        kv_rank=st.integers(1, 9),
        query_rank=st.none() | st.integers(1, 9),
        nope_width=st.integers(1, 9),
        rope_width=st.integers(1, 9),
        value_width=st.integers(1, 9),
    ),
    mixture=st.none()
    | st.builds(
        Mixture,
        experts=st.integers(4, 9),
        top_k=st.integers(1, 4),
        expert_feed_forward=st.integers(1, 64),
        shared_experts=st.integers(0, 2),
        dense_layers=st.integers(0, 9),
    ),
)


@given(shapes)
def test_a_token_meets_no_more_than_there_is(model: Model) -> None:
    weights = model.weights
    assert 0 < weights.matrices <= weights.active <= weights.total
    assert model.mixture is not None or weights.total - weights.active <= weights.embedding + weights.positions
