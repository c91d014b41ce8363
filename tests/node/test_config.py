"""Settings are checked before anything starts, with one clear line for each that is missing or wrong."""

from pathlib import Path
from typing import Any

import pytest

from node.config import Settings, env_example, load_settings, unused_settings
from node.errors import BadSettings
from node.storage import StorageSettings
from relays.event import Signer

GOOD: dict[str, Any] = {
    "upstream_base_url": "http://127.0.0.1:1/v1",
    "cashu_mints": "https://mint.example",
    "fixed_per_1k_input_tokens": "0.5",
    "fixed_per_1k_output_tokens": "2",
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def problems(**settings: Any) -> list[str]:
    with pytest.raises(BadSettings) as caught:
        load_settings(Settings, None, **settings)
    return caught.value.problems


def test_everything_missing_is_a_line_each() -> None:
    lines = problems()
    assert [line.split(":")[0] for line in lines] == ["UPSTREAM_BASE_URL", "CASHU_MINTS"]
    assert all("missing" in line and "\n" not in line for line in lines)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"upstream_base_url": "localhost:8000"}, "UPSTREAM_BASE_URL"),
        ({"upstream_kind": "other"}, "one of anthropic, azure, gemini, openai, satroute"),
        ({"upstream_kind": "azure", "upstream_base_url": ""}, "UPSTREAM_BASE_URL"),
        ({"extra_anthropic_betas": "context-1m-2025-08-07,a b"}, "EXTRA_ANTHROPIC_BETAS"),
        ({"cashu_mints": ""}, "CASHU_MINTS"),
        ({"cashu_mints": "mint.example"}, "CASHU_MINTS"),
        ({"relays": "https://relay.example"}, "RELAYS"),
        ({"relays": "wss://relay.example"}, "HTTP_URL"),
        ({"relays": "wss://a.example wss://b.example", "http_url": "https://n.example"}, "RELAYS"),
        ({"cashu_mints": "https://mint.example:x"}, "CASHU_MINTS"),
        ({"http_url": "https://node.example/?a=b"}, "HTTP_URL"),
        ({"http_url": "https://node.example/v1/"}, "leave that out"),
        ({"nsec": "nsec1wrong"}, "NSEC"),
        ({"port": "70000"}, "PORT"),
        ({"markup": "0"}, "MARKUP"),
        ({"fixed_btc_usd": "-1"}, "FIXED_BTC_USD"),
        ({"fixed_per_1k_output_tokens": None}, "FIXED_PER_1K"),
        (
            {"fixed_per_1k_input_tokens": None, "fixed_per_1k_output_tokens": None, "btc_price_sources": ""},
            "no price",
        ),
        ({"btc_price_sources": "kraken,bitfinex"}, "BTC_PRICE_SOURCES"),
        ({"btc_price_sources": "https://example.com/price"}, "JSON pointer"),
        ({"price_floor": "3.5"}, "PRICE_FLOOR"),
        ({"price_ceiling": "0.5"}, "PRICE_CEILING"),
        ({"models_path": "/nowhere/models.json"}, "MODELS_PATH"),
        ({"database_url": "mysql://x"}, "DATABASE_URL"),
        ({"log_level": "LOUD"}, "LOG_LEVEL"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(change: dict[str, Any], words: str) -> None:
    lines = problems(**GOOD | change)
    assert len(lines) == 1
    assert words in lines[0]
    assert "\n" not in lines[0]


def test_a_wrong_secret_is_not_repeated() -> None:
    assert "nsec1wrong" not in str(problems(**GOOD, nsec="nsec1wrong"))


def test_secrets_are_masked() -> None:
    settings = load_settings(Settings, None, **GOOD, upstream_api_key="sk-secret", nsec=Signer.generate().nsec())
    assert "sk-secret" not in repr(settings)
    assert "nsec1" not in repr(settings)


def test_lists_are_written_with_commas() -> None:
    settings = load_settings(
        Settings,
        None,
        **GOOD | {"cashu_mints": " https://a.example/, https://b.example,https://a.example "},
        relays="wss://r.example,",
        http_url="https://n.example/",
    )
    assert settings.cashu_mints == ("https://a.example", "https://b.example")
    assert settings.relays == ("wss://r.example",)
    assert settings.http_url == "https://n.example"


def test_settings_do_not_change() -> None:
    settings = load_settings(Settings, None, **GOOD)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


def test_the_environment_is_over_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "node.env"
    file.write_text("".join(f"{name.upper()}={value}\n" for name, value in GOOD.items()) + "NAME=from file\nPORT=1\n")
    monkeypatch.setenv("NAME", "from environment")
    settings = load_settings(Settings, file)
    assert (settings.name, settings.port) == ("from environment", 1)


def test_a_file_that_is_not_there_is_one_line(folder: Path) -> None:
    with pytest.raises(BadSettings, match="no settings file"):
        load_settings(Settings, folder / "none.env")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"TOR ONLY true", "line 2: cannot be read"),
        (b'NAME="no end', "line 2: cannot be read"),
        (b"NAME=\xff", "not text in UTF-8"),
    ],
)
def test_a_line_of_the_file_that_cannot_be_read_is_not_passed_over(folder: Path, line: bytes, words: str) -> None:
    file = folder / "node.env"
    file.write_bytes(b"PORT=1\n" + line + b"\nHOST=127.0.0.1\n")
    with pytest.raises(BadSettings, match=words) as caught:
        load_settings(StorageSettings, file)
    assert len(caught.value.problems) == 1


def written(folder: Path, *lines: str) -> Path:
    file = folder / "node.env"
    file.write_text("\n".join([*(f"{name.upper()}={value}" for name, value in GOOD.items()), *lines]))
    return file


def test_a_slip_of_the_pen_in_the_file_is_said(folder: Path) -> None:
    file = written(
        folder, "TORONLY=true", "export RELAY=wss://r.example", "COMPOSE_PROFILES=tor", "SATROUTE_PASSPHRASE=x"
    )
    first, second = unused_settings(load_settings(Settings, file))
    assert first == "TORONLY is no setting, and has no effect: is it TOR_ONLY?"
    assert second == "RELAY is no setting, and has no effect: is it RELAYS?"


def test_a_setting_that_the_environment_takes_the_place_of_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some systems have NAME or HOST in every environment: the machine's own, which would be announced."""
    monkeypatch.setenv("NAME", "DESKTOP-1")
    monkeypatch.setenv("UPSTREAM_API_KEY", "sk-one")
    monkeypatch.setenv("HOST", "127.0.0.1")
    monkeypatch.setenv("REGION", "")
    file = written(folder, "NAME=my node", "UPSTREAM_API_KEY=sk-two", "HOST=127.0.0.1", "REGION=CH")
    assert unused_settings(load_settings(Settings, file)) == [
        "NAME of the environment is used, and not the one of the settings file",
        "UPSTREAM_API_KEY of the environment is used, and not the one of the settings file",
    ]


def test_keys_of_upstreams_may_stand_in_the_settings_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit of systemd gives the node that file, and no other environment."""
    monkeypatch.delenv("A_KEY_OF_MINE", raising=False)
    upstreams = folder / "upstreams.toml"
    upstreams.write_text('[[upstream]]\nname = "a"\napi_key_env = "A_KEY_OF_MINE"\n')
    file = written(folder, f"UPSTREAMS_PATH={upstreams}", "A_KEY_OF_MINE=sk-a$b")
    settings = load_settings(Settings, file)
    assert [spec.api_key for spec in settings.upstreams()] == ["", "sk-a$b"]
    assert "sk-a$b" not in repr(settings)
    assert unused_settings(settings) == []
    monkeypatch.setenv("A_KEY_OF_MINE", "sk-of-the-environment")
    assert settings.upstreams()[1].api_key == "sk-of-the-environment"


def test_of_two_who_make_a_key_at_once_the_first_ones_counts(folder: Path) -> None:
    settings = StorageSettings.model_validate({"data_dir": folder / "data"})

    def slower() -> str:
        assert settings.kept("nsec", lambda: "the first") == "the first"
        return "the second"

    assert settings.kept("nsec", slower) == "the first"
    assert settings.kept("nsec", lambda: "another") == "the first"
    assert [path.name for path in (folder / "data").iterdir()] == ["nsec"]
    assert oct((folder / "data").stat().st_mode)[-3:] == "700"


def test_a_file_that_an_elder_crash_left_empty_is_filled(folder: Path) -> None:
    settings = StorageSettings.model_validate({"data_dir": folder})
    (folder / "nsec").touch(mode=0o644)
    assert settings.kept("nsec", lambda: "a key") == "a key"
    assert oct((folder / "nsec").stat().st_mode)[-3:] == "600"


def test_the_key_is_made_once_and_kept_for_its_owner_alone(folder: Path) -> None:
    settings = load_settings(Settings, None, **GOOD, data_dir=folder / "new")
    assert settings.signer().pubkey == settings.signer().pubkey
    assert oct((folder / "new" / "nsec").stat().st_mode)[-3:] == "600"
    (folder / "new" / "nsec").write_text("broken")
    with pytest.raises(BadSettings, match="NSEC"):
        settings.signer()


def test_a_reserved_setting_says_that_it_has_no_effect() -> None:
    settings = load_settings(Settings, None, **GOOD, admin_password="secret")
    assert [line.split()[0] for line in unused_settings(settings)] == ["ADMIN_PASSWORD"]


def test_tools_beside_the_node_need_only_its_storage(folder: Path) -> None:
    storage = load_settings(StorageSettings, None, data_dir=folder)
    assert storage.ledger_url == f"sqlite:///{folder / 'ledger.db'}"
    elsewhere = load_settings(StorageSettings, None, database_url=f"sqlite:///{folder}/x.db")
    assert elsewhere.ledger_url == f"sqlite:///{folder / 'x.db'}"


def test_the_example_lists_every_setting_and_is_up_to_date() -> None:
    example = (Path(__file__).parents[2] / ".env.example").read_text()
    assert example == env_example(), "write it anew: uv run python -m node.config > .env.example"
    for name in Settings.model_fields:
        assert f"{name.upper()}=" in example


def test_the_example_is_a_settings_file_once_its_blanks_are_filled(folder: Path) -> None:
    uncommented = env_example().replace("\n#FIXED_PER", "\nFIXED_PER")
    (folder / "x.env").write_text(uncommented)
    assert load_settings(Settings, folder / "x.env").upstream_base_url == "https://api.openai.com/v1"
