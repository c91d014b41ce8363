"""The shop sells what it has a price for: exact, rounded up, and never at a price that is missing."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from node.asks import read_ask
from node.config import Settings, load_settings
from node.errors import BadSettings, Refusal
from node.quote import quote_for
from node.shop.catalogue import Catalogue
from node.shop.listing import model_object
from node.shop.tariffs import Tariffs
from node.upstream.spec import UpstreamSpec
from relays.bounds import ModelLimits
from relays.endpoints import CHAT, MESSAGES
from relays.pricing import ModelPrice
from tests.node.test_config import GOOD

USD = {k: v for k, v in GOOD.items() if not k.startswith("fixed_per")} | {"fixed_btc_usd": "100000", "markup": "1.15"}
GPT: dict[str, Any] = {
    "id": "openai/gpt-4o-mini",
    "context_length": 128_000,
    "top_provider": {"max_completion_tokens": 16_384},
    "pricing": {"prompt": "0.00000015", "completion": "0.0000006", "request": "0"},
    "architecture": {"input_modalities": ["text", "image"]},
}


def catalogue(settings: dict[str, Any], *models: dict[str, Any]) -> Catalogue:
    loaded = load_settings(Settings, None, **settings)
    made = Catalogue(loaded, loaded.upstreams(), Tariffs(loaded.fixed_btc_usd))
    made.update({"upstream": models})
    return made


def test_usd_prices_become_msat_with_the_markup() -> None:
    model = catalogue(USD, GPT).get("openai/gpt-4o-mini")
    # 0.15 USD a million tokens, 1 USD = 1,000 sat = 1,000,000 msat, times 1.15
    assert model.price == ModelPrice(172_500, 690_000, 0)
    assert model.limits == ModelLimits(128_000, 16_384, "openai-mini")
    assert model.input_modalities == ("text", "image")


def test_prices_round_up_to_the_msat() -> None:
    odd = GPT | {"pricing": {"prompt": "0.00000000000001", "completion": "0.0000000000000000001"}}
    assert catalogue(USD, odd).get(GPT["id"]).price == ModelPrice(1, 1, 0)


def test_prices_set_outright_hold_for_every_model_without_markup() -> None:
    model = catalogue(GOOD | {"fixed_cost_per_request": "0.0015"}, GPT).get(GPT["id"])
    assert model.price == ModelPrice(500_000, 2_000_000, 2)


@pytest.mark.parametrize(
    "pricing",
    [
        None,
        {},
        {"prompt": "0.1"},
        {"prompt": "-1", "completion": "-1"},
        {"prompt": "x", "completion": "1"},
        {"prompt": "NaN", "completion": "1"},
        {"prompt": "1e40", "completion": "1"},
    ],
)
def test_a_model_without_a_price_is_not_sold(pricing: object) -> None:
    assert catalogue(USD, GPT | {"pricing": pricing}).all() == ()


def test_a_models_file_chooses_and_prices(folder: Path) -> None:
    exact = {"prompt_msat_per_mtok": 7, "completion_msat_per_mtok": 9, "request_msat": 1}
    file = folder / "models.json"
    file.write_text(json.dumps({"data": [{"id": "a", "msat_pricing": exact}, {"id": "b", "enabled": False}]}))
    shop = catalogue(USD | {"models_path": str(file)}, {"id": "a", "context_length": 4096}, GPT)
    assert [model.id for model in shop.all()] == ["a"]
    assert shop.get("a").price == ModelPrice(7, 9, 1)
    assert shop.get("a").limits.context_length == 4096


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"data": 3}', '{"x": []}', "null"])
def test_a_models_file_that_is_none_is_said(folder: Path, text: str) -> None:
    (folder / "m.json").write_text(text)
    with pytest.raises(BadSettings, match="MODELS_PATH"):
        catalogue(USD | {"models_path": str(folder / "m.json")})


@pytest.mark.parametrize(
    ("raw", "context"),
    [
        ({"max_model_len": 5}, 5),
        ({"meta": {"n_ctx": 6}}, 6),
        ({"context_window": 7}, 7),
        ({"max_context_length": 9}, 9),
        ({}, 8192),
        ({"meta": 3}, 8192),
    ],
)
def test_the_context_is_found_where_servers_put_it(raw: dict[str, Any], context: int) -> None:
    assert catalogue(GOOD, {"id": "m"} | raw).get("m").limits.context_length == context


def test_the_longest_answer_is_found_where_groq_puts_it() -> None:
    limits = catalogue(GOOD, {"id": "m", "context_window": 131_072, "max_completion_tokens": 32_768}).get("m").limits
    assert (limits.context_length, limits.max_output_tokens) == (131_072, 32_768)


def test_the_models_file_of_the_documentation_is_sold_as_it_says(folder: Path) -> None:
    documented = (Path(__file__).parents[2] / "docs" / "prices.md").read_text()
    (folder / "m.json").write_text(documented.split("```json\n")[1].split("```")[0])
    loaded = load_settings(Settings, None, **USD, models_path=str(folder / "m.json"))
    specs = (UpstreamSpec(name="openai"),)
    shop = Catalogue(loaded, specs, Tariffs(Decimal(100_000)))
    shop.update(
        {
            "openai": [
                {"id": "gpt-4o-mini", "context_length": 1},
                *({"id": id_} for id_ in ("painter", "ear", "voice", "mine")),
            ]
        }
    )
    assert [model.id for model in shop.all()] == ["fast", "painter", "ear", "voice", "mine"]
    fast = shop.get("fast")
    assert fast.price == ModelPrice(195_000, 780_000, cached_msat_per_mtok=97_500)
    assert (fast.sources[0].model, fast.limits.context_length) == ("gpt-4o-mini", 128_000)
    assert shop.get("painter").price.of_image("1024x1024", "hd") == 92_000
    assert shop.get("ear").price.audio_msat_per_hour == 414_000
    assert shop.get("voice").price.characters_msat_per_mchar == 17_250_000
    assert shop.get("mine").price == ModelPrice(500_000, 2_000_000, 10)


def test_a_list_says_nothing_that_is_the_operators_to_say() -> None:
    """An upstream must not set its own markup, nor the price in msat."""
    sly = GPT | {"markup": 0.001, "msat_pricing": {"prompt_msat_per_mtok": 1, "completion_msat_per_mtok": 1}}
    sly |= {"node_pricing": sly["msat_pricing"], "upstreams": ["x"], "upstream_id": "dearer"}
    model = catalogue(USD, sly).get(GPT["id"])
    assert model.price == ModelPrice(172_500, 690_000, 0)
    assert model.sources[0].model == GPT["id"]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"upstreams": None}, "upstreams"),
        ({"upstreams": "upstream-eu"}, "upstreams"),
        ({"upstreams": [7]}, "upstreams"),
        ({"enabled": "false"}, "enabled"),
        ({"context_length": "128000"}, "context_length"),
        ({"context_length": True}, "context_length"),
        ({"context_length": -1}, "context_length"),
    ],
)
def test_an_entry_of_the_models_file_that_would_pass_for_something_else_is_said(
    folder: Path, entry: dict[str, Any], problem: str
) -> None:
    (folder / "m.json").write_text(json.dumps([{"id": "a"} | entry]))
    with pytest.raises(BadSettings, match=f"a: .*{problem}"):
        catalogue(USD | {"models_path": str(folder / "m.json")})


def test_an_entry_is_served_by_the_upstreams_that_it_names_alone(folder: Path) -> None:
    exact = {"prompt_msat_per_mtok": 7, "completion_msat_per_mtok": 9}
    file = folder / "m.json"
    file.write_text(json.dumps([{"id": "a", "msat_pricing": exact, "upstreams": ["two"]}]))
    loaded = load_settings(Settings, None, **USD, models_path=str(file))
    shop = Catalogue(loaded, (UpstreamSpec(name="one"), UpstreamSpec(name="two")), Tariffs(Decimal(1)))
    shop.update({"one": [{"id": "a"}], "two": [{"id": "a"}]})
    assert [source.upstream for source in shop.get("a").sources] == ["two"]


def test_what_an_upstream_has_dropped_leaves_though_a_file_or_an_alias_names_it(folder: Path) -> None:
    exact = {"prompt_msat_per_mtok": 7, "completion_msat_per_mtok": 9}
    file = folder / "m.json"
    file.write_text(json.dumps([{"id": "a", "msat_pricing": exact}, {"id": "b", "msat_pricing": exact}]))
    shop = catalogue(USD | {"models_path": str(file)}, {"id": "b"})
    assert [model.id for model in shop.all()] == ["b"]
    loaded = load_settings(Settings, None, **GOOD)
    aliased = Catalogue(loaded, (UpstreamSpec(name="one", aliases={"ours": "theirs"}),), Tariffs(None))
    aliased.update({"one": [{"id": "theirs"}]})
    assert aliased.get("ours").sources[0].model == "theirs"
    aliased.update({"one": [{"id": "others"}]})
    assert [model.id for model in aliased.all()] == ["others"]


@pytest.mark.parametrize("name", ["m\r\nX-Evil: 1", "m\0", "m" * 201, "\x1b[2J"])
def test_a_name_that_is_no_line_of_text_is_not_sold(name: str) -> None:
    assert [model.id for model in catalogue(GOOD, {"id": name}, {"id": "m"}).all()] == ["m"]


def test_a_model_that_is_paid_by_the_picture_alone_is_not_free() -> None:
    painter = {"id": "p", "pricing": {"prompt": "0", "completion": "0", "image": "0.08"}}
    assert catalogue(USD, painter).get("p").price.image_msat == 92_000


def test_the_most_that_a_request_can_cost_has_all_its_kinds() -> None:
    pricing = {"prompt": "0.000001", "completion": "0.000001", "input_cache_write": "0.000002"}
    model = catalogue(USD | {"markup": "1"}, {"id": "m", "context_length": 1000, "pricing": pricing}).get("m")
    assert model_object(model, "x", None)["sats_pricing"]["max_prompt_cost"] == 2.0
    painter = {"id": "p", "pricing": {"prompt": "0", "completion": "0", "image_sizes": {"1x1": "0.1", "2x2": "0.2"}}}
    assert model_object(catalogue(USD, painter).get("p"), "x", None)["sats_pricing"]["max_cost"] == 230.0


def test_only_a_changed_offer_is_a_change() -> None:
    shop = catalogue(GOOD, {"id": "m", "created": 1})
    assert not shop.update({"upstream": [{"id": "m", "created": 2}]})
    assert shop.update({"upstream": [{"id": "m", "context_length": 5}]})
    assert shop.update({})
    with pytest.raises(Refusal) as caught:
        shop.get("m")
    assert caught.value.status == 404


def test_the_model_object_has_all_three_prices() -> None:
    shown = model_object(catalogue(USD, GPT).get(GPT["id"]), "a node", Decimal(100_000))
    assert Decimal(shown["pricing"]["prompt"]) == Decimal("0.0000001725")
    assert shown["sats_pricing"]["prompt"] == 0.0001725
    assert shown["msat_pricing"].prompt_msat_per_mtok == 172_500
    # 111,616 tokens read and 16,384 written, the request rounded up to the msat
    assert shown["sats_pricing"]["max_cost"] == 30.559


def test_chats_that_draw_are_not_sold_at_the_price_of_text() -> None:
    """A list in USD has none for drawn tokens, which cost far more; what the operator says in msat is for all of it."""
    drawing = GPT | {"architecture": {"output_modalities": ["text", "image"]}}
    body = json.dumps(
        {"model": GPT["id"], "max_tokens": 5, "messages": [{"role": "user", "content": "Draw."}]}
    ).encode()
    chat, messages = (read_ask(endpoint, body, "application/json") for endpoint in (CHAT, MESSAGES))
    for ask in (chat, messages):
        with pytest.raises(Refusal, match="no price for the pictures"):
            quote_for(ask, catalogue(USD, drawing))
    assert quote_for(chat, catalogue(USD, GPT)).hold_msat > 0
    assert quote_for(chat, catalogue(GOOD, drawing)).hold_msat > 0


@pytest.mark.parametrize(
    ("entry", "features"),
    [
        ({}, None),
        (
            {"supported_parameters": ["tools", "structured_outputs", "reasoning"]},
            ("tools", "vision", "json", "reasoning"),
        ),
        ({"supported_parameters": ["response_format"], "architecture": {}}, ("json",)),
        ({"supported_parameters": [[], {}]}, ("vision",)),
        ({"supported_parameters": "tools"}, None),
        ({"features": ["json", "flight"], "supported_parameters": ["tools"]}, ("json",)),
        ({"features": []}, ()),
    ],
)
def test_features_are_told_where_somebody_knows_them(entry: dict[str, Any], features: tuple[str, ...] | None) -> None:
    model = catalogue(USD, GPT | entry).get(GPT["id"])
    assert model.offer.features == features
    assert model_object(model, "us", None).get("features") == features
    assert (model.offer.input[0], model.offer.output) == ("text", ("text",))


@pytest.mark.parametrize(
    ("listed", "endpoints"),
    [(None, None), (["messages", "chat"], ("chat", "messages")), (["https://elsewhere.example"], None), ("chat", None)],
)
def test_endpoints_are_told_where_somebody_knows_them(listed: object, endpoints: tuple[str, ...] | None) -> None:
    assert catalogue(USD, GPT | {"endpoints": listed}).get(GPT["id"]).offer.endpoints == endpoints


def test_a_model_at_two_upstreams_has_the_endpoints_of_either_and_the_features_of_both() -> None:
    loaded = load_settings(Settings, None, **USD)
    specs = [msgspec.structs.replace(loaded.upstreams()[0], name=name) for name in ("one", "two")]
    one = GPT | {"features": ["tools", "json"], "endpoints": ["chat"]}
    two = GPT | {"features": ["json", "vision"], "endpoints": ["messages", "chat"]}
    shop = Catalogue(loaded, specs, Tariffs(loaded.fixed_btc_usd))
    shop.update({"one": [one], "two": [two]})
    assert shop.get(GPT["id"]).offer.features == ("json",)
    assert shop.get(GPT["id"]).offer.endpoints == ("chat", "messages")
    assert shop.update({"one": [one], "two": [two | {"features": ["json", "tools"]}]}), "the offer has changed"
    shop.update({"one": [one], "two": [GPT]})
    assert (shop.get(GPT["id"]).offer.features, shop.get(GPT["id"]).offer.endpoints) == (None, None)


def test_entries_of_the_models_file_that_no_upstream_has_are_told_of_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A slip in a name, and the shop was empty without a word."""
    gone = [{**GPT, "id": f"gone-{number}"} for number in range(30)]
    named = [{"id": "fast", "upstream_id": "openai/gpt-4o-mimi"}, *gone, {"id": "off", "enabled": False}, GPT]
    (folder / "models.json").write_text(json.dumps(named))
    shop = catalogue({**USD, "models_path": folder / "models.json"}, GPT)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("of the models file is not sold what no upstream lists: openai/gpt-4o-mimi, gone-0, gone-1")
    assert told.endswith("and 26 more")
    shop.update({"upstream": (GPT,)})
    assert len(caplog.records) == 1
    assert len(shop) == 1
