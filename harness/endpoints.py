"""OpenAI-compatible endpoints: what is said of one, whether it judges or teaches, and its prices.

Keys are read from environment variables by who asks; here only the variables' names stand.
"""

import datetime
from typing import ClassVar, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, model_validator

from kdbench.harness.errors import InputError
from kdbench.harness.settings import Settings

OPENAI_URL = "https://api.openai.com/v1"
OURS = frozenset(
    [
        "messages",
        "model",
        "n",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "response_format",
    ]
)
"""Fields of a request that parameters may not replace."""


class Prices(Settings):
    """What a million tokens cost, and when that was true."""

    input: float = Field(ge=0, description="a million prompt tokens")
    output: float = Field(ge=0, description="a million completion tokens")
    currency: str = "USD"
    date: datetime.date
    source: str = ""

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The price of one call."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


class EndpointSettings(Settings):
    """How an endpoint is asked."""

    key_env: str = Field("OPENAI_API_KEY", description="environment variable that holds the key")
    parameters: dict[str, JsonValue] = Field(
        {}, description="sent as they are: temperature, seed …"
    )
    limit_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_completion_tokens"
    prices: Prices | None = None
    concurrency: int = Field(8, gt=0, le=256)
    timeout_s: float = Field(120.0, gt=0, description="of one request, to its last byte")
    deadline_s: float = Field(600.0, gt=0, description="of one call, retries and pauses included")
    max_retries: int = Field(5, ge=0, le=100)
    give_up_after: int = Field(10, gt=0, description="failed calls in a row that end the command")

    @model_validator(mode="after")
    def _check_parameters(self) -> Self:
        if taken := OURS & self.parameters.keys():
            raise ValueError(f"parameters must not hold {', '.join(sorted(taken))}")
        return self


class Spoken(NamedTuple):
    """What sentences call the settings of an endpoint, so that they can be changed.

    Attributes:
        who: is behind it, as in "the judge's key".
        key, model, url, limit: settings or flags; the last of spending.
        setting: what comes before ``field=value`` to change another.
    """

    who: str
    key: str
    model: str
    url: str
    limit: str
    setting: str


class Asked(EndpointSettings):
    """A model behind an endpoint."""

    SPOKEN: ClassVar[Spoken]

    model: str = Field(min_length=1)
    max_tokens: int = Field(512, gt=0, description="of an answer")

    def sampling(self) -> dict[str, JsonValue]:
        """The body of a request without model and messages."""
        return {**self.parameters, self.limit_parameter: self.max_tokens}


class Place(NamedTuple):
    """A model at an endpoint: ``https://host/v1#model``."""

    base_url: str
    model: str


def place_of(ref: str) -> Place | None:
    """The endpoint that a model's name stands for; None for a folder, a file or a hub id.

    Raises:
        InputError: it begins as one and names no model, or could hide a secret.
    """
    if not ref.lower().startswith(("http://", "https://")):
        return None
    url, _, model = ref.partition("#")
    if not model.strip():
        raise InputError(
            f"{ref.partition('?')[0]} names no model; give a teacher behind an endpoint as "
            "https://host/v1#model"
        )
    return Place(checked_url(url, "the teacher's endpoint", "pair.teacher"), model.strip())


def checked_url(url: str, what: str, setting: str) -> str:
    """A base URL in one spelling, for keys; refuses what could hide a secret.

    Args:
        url: as given.
        what: what sentences call it.
        setting: where it is set.

    Raises:
        InputError: not http(s), or with user name, password, query or fragment in it.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"{what} must be like https://host/v1; see {setting}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InputError(
            f"{what} must not hold a user, password or query, since it is recorded; "
            "give the key in an environment variable"
        )
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
