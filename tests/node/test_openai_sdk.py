"""The official `openai` SDK works unchanged: every endpoint it has, streamed and not, and errors as its own exception
classes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import openai
import pydantic
import pytest

from node.deposits import new_key
from relays.pricing import Usage, cost
from tests.conftest import DEAD_MINT
from tests.node.harness import HELLO, MODEL, Running, receipt_of, running_node
from tests.node.shopful import PIXEL, WORDS
from tests.node.test_endpoints import MODEL as SHOP
from tests.node.test_endpoints import PRICE, models_file, sound
from tests.node.toolful import BEFORE_CALLS, BY_SCHEMA, CALLS, CHAT_USED, LOGPROB, Toolful, running_toolful

MODERATION: Final = "omni-moderation-latest"
SAID: Final = "".join(WORDS)
ASK: Final[list[Any]] = [{"role": "user", "content": "What is two and two?"}]
PARAMETERS: Final = {"type": "object", "properties": {"city": {"type": "string"}}, "additionalProperties": False}
TOOLS: Final[list[Any]] = [
    {
        "type": "function",
        "function": {"name": "weather", "strict": True, "parameters": {**PARAMETERS, "required": ["city"]}},
    }
]
WAV: Final = ("a.wav", sound(2.5), "audio/wav")
ENDPOINTS: Final[dict[str, tuple[dict[str, Any], Usage]]] = {
    "chat.completions.create": ({"messages": ASK}, CHAT_USED),
    "completions.create": ({"prompt": "Two and two"}, CHAT_USED),
    "responses.create": ({"input": "What is two and two?"}, CHAT_USED),
    "embeddings.create": ({"input": ["two", "four"]}, Usage(7, 0)),
    "moderations.create": ({"input": "two"}, Usage(1, 0)),
    "images.generate": ({"prompt": "two", "n": 2}, Usage(10, 1000, images=2)),
    "images.edit": ({"prompt": "two", "image": ("a.png", b"picture", "image/png")}, Usage(10, 1000, images=1)),
    "audio.speech.create": ({"input": "Two and two", "voice": "alloy"}, Usage(3, 0, characters=11)),
    "audio.transcriptions.create": ({"file": WAV}, Usage(0, 6, audio_ms=3000)),
    "audio.translations.create": ({"file": WAV}, Usage(0, 6, audio_ms=3000)),
}
SDK_DEPRECATES = pytest.mark.filterwarnings("ignore:deprecated$:DeprecationWarning")
"""Its `audio.translations`, with that one word."""


class Weather(pydantic.BaseModel):
    city: str
    degrees: int


@pytest.fixture
async def node(folder: Path, model_url: str) -> AsyncIterator[Running]:
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=model_url) as running:
        yield running


@pytest.fixture
async def shop() -> AsyncIterator[tuple[Toolful, str]]:
    async with running_toolful(SHOP, MODERATION) as running:
        yield running


@pytest.fixture
async def full(folder: Path, shop: tuple[Toolful, str], request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    """A node with every endpoint."""
    models = models_file(folder, shop_1=PRICE, omni_moderation_latest=PRICE)
    settings = getattr(request, "param", {})
    async with running_node(
        folder, cashu_mints=DEAD_MINT, upstream_base_url=shop[1], models_path=models, **settings
    ) as running:
        yield running


async def client(node: Running, amount_msat: int = 10_000_000) -> openai.AsyncOpenAI:
    key = new_key()
    await node.node.ledger.create_key(key.hash, key.hint, "", amount_msat)
    return openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key=key.text, max_retries=0)


@pytest.fixture
async def sdk(full: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with await client(full) as opened:
        yield opened


async def test_chat(node: Running) -> None:
    async with await client(node) as sdk:
        answer = await sdk.chat.completions.create(**HELLO)
        assert answer.choices[0].message.content
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0


async def test_stream_with_and_without_usage(node: Running) -> None:
    async with await client(node) as sdk:
        for options in ({}, {"stream_options": {"include_usage": True}}):
            request: dict[str, Any] = HELLO | options
            chunks = [chunk async for chunk in await sdk.chat.completions.create(**request, stream=True)]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            assert text
            assert sum(chunk.usage is not None for chunk in chunks) == bool(options)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"messages": []}, "messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 1000}, "n"),
        ({"extra_body": {"n_predict": 5}}, "n_predict"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_refusal_names_the_field_as_openais_does(
    node: Running, wrong: dict[str, Any], field: str | None
) -> None:
    """It was always null."""
    async with await client(node) as sdk:
        with pytest.raises(openai.BadRequestError) as refused:
            await sdk.chat.completions.create(**HELLO | wrong)
    assert (refused.value.param, refused.value.code) == (field, "invalid_request")
    assert refused.value.request_id


async def test_models(node: Running) -> None:
    async with await client(node) as sdk:
        assert [model.id async for model in sdk.models.list()] == [MODEL]
        assert (await sdk.models.retrieve(MODEL)).id == MODEL


@SDK_DEPRECATES
@pytest.mark.parametrize("call", ENDPOINTS)
async def test_every_endpoint_is_charged_for_what_it_used(sdk: openai.AsyncOpenAI, call: str) -> None:
    """As a header says and a receipt proves, which the SDK gives beside the answer."""
    arguments, usage = ENDPOINTS[call]
    place, _, method = call.rpartition(".")
    reply = await attrgetter(f"{place}.with_raw_response.{method}")(sdk)(model=SHOP, **arguments)
    assert receipt_of(reply.http_response).usage == usage
    assert int(reply.headers["x-satroute-cost-msat"]) == receipt_of(reply.http_response).cost_msat == cost(usage, PRICE)


async def test_the_cost_of_a_chat_stands_in_its_usage(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.chat.completions.create(model=SHOP, messages=ASK)
    options: Any = {"include_usage": True}
    chunks = await sdk.chat.completions.create(model=SHOP, messages=ASK, stream=True, stream_options=options)
    last = [chunk async for chunk in chunks][-1]
    for usage in (whole.usage, last.usage):
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (20, 6, 26)
        assert usage.model_extra is not None
        assert usage.model_extra["cost"]["total_msats"] == cost(CHAT_USED, PRICE)


async def test_a_chat_gives_several_answers_with_the_probability_of_each_token(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(model=SHOP, messages=ASK, n=2, logprobs=True, top_logprobs=1)
    assert [(choice.index, choice.message.content) for choice in answer.choices] == [(0, SAID), (1, SAID)]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert [(token.token, token.logprob) for token in choice.logprobs.content or []] == [
            (w, LOGPROB) for w in WORDS
        ]
    texts = ["", ""]
    async for chunk in await sdk.chat.completions.create(model=SHOP, messages=ASK, n=2, stream=True):
        for piece in chunk.choices:
            texts[piece.index] += piece.delta.content or ""
    assert texts == [SAID, SAID]


async def test_a_chat_calls_tools_and_reads_their_results(sdk: openai.AsyncOpenAI, shop: tuple[Toolful, str]) -> None:
    first = await sdk.chat.completions.create(model=SHOP, messages=ASK, tools=TOOLS)
    async with sdk.chat.completions.stream(model=SHOP, messages=ASK, tools=TOOLS) as stream:
        streamed = await stream.get_final_completion()
    for answer in (first, streamed):
        choice = answer.choices[0]
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", BEFORE_CALLS)
        called = [call for call in choice.message.tool_calls or [] if call.type == "function"]
        assert [(c.id, c.function.name, json.loads(c.function.arguments)) for c in called] == [*CALLS]
    results: list[Any] = [
        {"role": "tool", "tool_call_id": call[0], "content": f"{place}°"}
        for call, place in zip(CALLS, (21, 18), strict=True)
    ]
    said: Any = first.choices[0].message.model_dump(exclude_none=True)
    last = await sdk.chat.completions.create(model=SHOP, messages=[*ASK, said, *results], tools=TOOLS)
    assert last.choices[0].message.content == "It is 21° and 18°"
    assert shop[0].asked[-1][1]["messages"] == [*ASK, said, *results]


async def test_a_chat_keeps_to_a_schema(sdk: openai.AsyncOpenAI, shop: tuple[Toolful, str]) -> None:
    whole = await sdk.chat.completions.parse(model=SHOP, messages=ASK, response_format=Weather)
    async with sdk.chat.completions.stream(model=SHOP, messages=ASK, response_format=Weather) as stream:
        streamed = await stream.get_final_completion()
    assert whole.choices[0].message.parsed == streamed.choices[0].message.parsed == Weather.model_validate(BY_SCHEMA)
    for _, body in shop[0].asked:
        assert body["response_format"]["json_schema"]["schema"]["required"] == ["city", "degrees"]


async def test_completions(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.completions.create(model=SHOP, prompt="Two and two", max_tokens=9)
    assert whole.choices[0].text == SAID
    chunks = [c async for c in await sdk.completions.create(model=SHOP, prompt="Two and two", stream=True)]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == SAID


async def test_responses(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.responses.create(model=SHOP, input="What is two and two?", max_output_tokens=50)
    events = [event async for event in await sdk.responses.create(model=SHOP, input=ASK, stream=True)]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == SAID
    assert events[-1].type == "response.completed"
    for answer in (whole, events[-1].response):
        assert (answer.output_text, answer.status) == (SAID, "completed")
        assert answer.usage is not None
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (20, 6)
        assert (answer.usage.model_extra or {})["cost"]["total_msats"] == cost(CHAT_USED, PRICE)


async def test_embeddings_as_numbers_and_as_the_sdk_asks_for_them_by_itself(
    sdk: openai.AsyncOpenAI, shop: tuple[Toolful, str]
) -> None:
    numbers = await sdk.embeddings.create(model=SHOP, input=["two", "four"], encoding_format="float")
    packed = await sdk.embeddings.create(model=SHOP, input=["two", "four"])
    assert [body["encoding_format"] for _, body in shop[0].asked] == ["float", "base64"]
    for answer in (numbers, packed):
        assert [(e.index, [*e.embedding]) for e in answer.data] == [(0, [0.25, -0.5]), (1, [0.25, -0.5])]


async def test_a_moderation_needs_no_model(sdk: openai.AsyncOpenAI, shop: tuple[Toolful, str]) -> None:
    for named in (openai.omit, SHOP):
        answer = await sdk.moderations.create(input="two", model=named)
        assert [result.flagged for result in answer.results] == [False]
    assert [body["model"] for _, body in shop[0].asked] == [MODERATION, SHOP]


async def test_images_are_made_and_edited(sdk: openai.AsyncOpenAI, shop: tuple[Toolful, str]) -> None:
    made = await sdk.images.generate(model=SHOP, prompt="two", n=2, size="1024x1024")
    assert [image.b64_json for image in made.data or []] == [PIXEL, PIXEL]
    events = [e async for e in await sdk.images.generate(model=SHOP, prompt="two", stream=True, partial_images=1)]
    assert [event.type for event in events] == ["image_generation.partial_image", "image_generation.completed"]
    assert [event.b64_json for event in events] == [PIXEL, PIXEL]
    edited = await sdk.images.edit(model=SHOP, prompt="two", image=[("a.png", b"one"), ("b.png", b"other")])
    assert [image.b64_json for image in edited.data or []] == [PIXEL]
    path, body = shop[0].asked[-1]
    assert (path, body["prompt"]) == ("/images/edits", "two")


async def test_speech_as_a_whole_and_as_it_comes(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.audio.speech.create(model=SHOP, input="Two", voice="alloy")
    assert whole.content == b"ID3 sound"
    async with sdk.audio.speech.with_streaming_response.create(model=SHOP, input="Two", voice="alloy") as reply:
        assert b"".join([chunk async for chunk in reply.iter_bytes()]) == b"ID3 sound"


@SDK_DEPRECATES
async def test_sound_is_transcribed_and_translated(sdk: openai.AsyncOpenAI, shop: tuple[Toolful, str]) -> None:
    as_json = await sdk.audio.transcriptions.create(model=SHOP, file=WAV, language="en")
    assert as_json.text == SAID
    assert shop[0].asked[-1][1]["file"] == WAV[1]
    assert await sdk.audio.transcriptions.create(model=SHOP, file=WAV, response_format="text") == SAID
    events = [event async for event in await sdk.audio.transcriptions.create(model=SHOP, file=WAV, stream=True)]
    assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == SAID
    done = events[-1]
    assert done.type == "transcript.text.done"
    assert done.usage is not None
    assert (done.text, done.usage.input_tokens, done.usage.output_tokens) == (SAID, 30, 6)
    assert (await sdk.audio.translations.create(model=SHOP, file=WAV)).text == SAID


async def test_errors_are_its_exception_classes(node: Running) -> None:
    async with await client(node) as sdk:
        with pytest.raises(openai.NotFoundError, match="gpt-9"):
            await sdk.chat.completions.create(**HELLO | {"model": "gpt-9"})
        with pytest.raises(openai.BadRequestError):
            await sdk.chat.completions.create(**HELLO | {"messages": []})
        with pytest.raises(openai.AuthenticationError):
            await sdk.with_options(api_key="sk-wrong").chat.completions.create(**HELLO)
        with pytest.raises(openai.BadRequestError, match="token"):
            await sdk.with_options(api_key="cashuBwrong").chat.completions.create(**HELLO)
    async with await client(node, 10) as poor:
        with pytest.raises(openai.APIStatusError) as caught:
            await poor.chat.completions.create(**HELLO)
        assert caught.value.status_code == 402
        assert caught.value.code == "insufficient_balance"


@SDK_DEPRECATES
@pytest.mark.parametrize("full", [{"requests_per_minute": 1}], indirect=True, ids=["slow"])
@pytest.mark.parametrize("call", ENDPOINTS)
async def test_errors_of_every_endpoint_are_its_exception_classes(
    full: Running, sdk: openai.AsyncOpenAI, shop: tuple[Toolful, str], call: str
) -> None:
    arguments, create = ENDPOINTS[call][0], attrgetter(call)
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        await create(sdk)(model="gpt-9", **arguments)
    with pytest.raises(openai.BadRequestError, match="fallback"):
        await create(sdk)(model=SHOP, **arguments, extra_body={"fallback": "another model"})
    async with await client(full, 0) as poor:
        with pytest.raises(openai.APIStatusError) as caught:
            await create(poor)(model=SHOP, **arguments)
        assert (caught.value.status_code, caught.value.code) == (402, "insufficient_balance")
    assert shop[0].asked == []
    await create(sdk)(model=SHOP, **arguments)
    with pytest.raises(openai.RateLimitError, match="more than 1 requests a minute"):
        await create(sdk)(model=SHOP, **arguments)
    assert len(shop[0].asked) == 1


async def test_a_stream_that_breaks_off_raises_where_it_broke(
    sdk: openai.AsyncOpenAI, shop: tuple[Toolful, str]
) -> None:
    shop[0].breaks = True
    text = ""
    with pytest.raises(openai.APIError, match="did not deliver"):
        async for chunk in await sdk.chat.completions.create(model=SHOP, messages=ASK, stream=True):
            text += chunk.choices[0].delta.content or ""
    assert text == "".join(WORDS[:4])


async def test_a_dead_upstream_is_its_server_error(folder: Path, model_url: str) -> None:
    models = folder / "models.json"
    models.write_text('{"data": [{"id": "smollm2-135m"}]}')
    dead = "http://127.0.0.1:9/v1"
    async with running_node(folder, cashu_mints=DEAD_MINT, upstream_base_url=dead, models_path=str(models)) as node:
        node.node.catalogue.update({})
        async with await client(node) as sdk:
            with pytest.raises(openai.InternalServerError, match="nothing was charged"):
                await sdk.chat.completions.create(**HELLO)
