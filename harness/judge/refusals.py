"""What an endpoint says when it refuses a request, and which setting of ours to change."""

import json
import re
from collections.abc import Iterator
from typing import Any

from kdbench.harness.endpoints import Asked
from kdbench.harness.printing import shortened

REFUSALS = frozenset({400, 401, 402, 403, 404, 405, 413, 415, 422, 501})
"""Statuses that the same request will get again."""
ALWAYS = frozenset({401, 402, 403, 404})
"""Those of them that have nothing to do with one question."""

_SHOWN = 300
"""Characters of what an endpoint wrote that a sentence repeats."""
_DEEPEST = 5
"""How deep in a body a reason is looked for."""


def shown(text: str) -> str:
    """As much of what an endpoint wrote as a sentence repeats; what is beyond bounds is not read."""
    return shortened(text[: 20 * _SHOWN], _SHOWN)


def said(body: str) -> str:
    """The reason in the body of a refusal: the endpoint's own words, as far as it has any."""
    return shown("; ".join(dict.fromkeys(_messages(parsed(body)))) or body) or "no reason given"


def remedy(asked: Asked, status: int, body: str) -> str:
    """What of ours to change so that a refused request is taken."""
    spoken = asked.SPOKEN
    if status in (401, 403):
        return f"set the variable that {spoken.key} names to a key of that endpoint"
    if status == 402:
        return "the endpoint wants payment"
    blamed = _blamed(asked, body)
    if blamed == asked.limit_parameter:
        both = ("max_tokens", "max_completion_tokens")
        return f"name the limit otherwise: --set {spoken.setting}limit_parameter={both[blamed == both[0]]}"
    if blamed == "response_format":
        return f"ask for JSON in the prompt only: --set {spoken.setting}answer=json"
    if blamed in asked.parameters:
        kept = {name: value for name, value in asked.parameters.items() if name != blamed}
        return f"leave it out: --set '{spoken.setting}parameters={json.dumps(kept)}'"
    if status in (404, 405) or blamed == "model":
        return f"see {spoken.model} and {spoken.url}"
    if spoken.setting:
        return f"change the request: see {spoken.setting}parameters and {spoken.setting}limit_parameter"
    return "change the request: --set parameters=…, limit_parameter=…, answer=… or max_tokens=…"


def _blamed(asked: Asked, body: str) -> str:
    """The field of the request that a refusal is about; empty if it does not say.

    A field that is named as such counts before one that is only mentioned, and the first mentioned
    before later ones (the endpoint's advice: "use 'max_completion_tokens' instead").
    """
    document = parsed(body)
    sent = ["model", *asked.sampling()]
    named = list(_named(document))
    if found := [name for name in sent if name in named]:
        return found[0]
    text = said(body)
    places = {name: re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in sent}
    if "json_schema" in text and "response_format" in sent:
        return "response_format"
    said_at = sorted((match.start(), name) for name, match in places.items() if match)
    said_at = [pair for pair in said_at if pair[1] != "model"] or said_at
    return said_at[0][1] if said_at else ""


def _messages(document: Any, deep: int = _DEEPEST) -> Iterator[str]:
    """Sentences in the forms of OpenAI, FastAPI, Anthropic and others."""
    if not deep:
        return
    if isinstance(document, str):
        yield document
    elif isinstance(document, list):
        for each in document[:3]:
            yield from _messages(each, deep - 1)
    elif isinstance(document, dict):
        place = document.get("loc")
        places = [str(part) for part in place if part != "body"] if isinstance(place, list) else []
        for key in ("error", "detail", "message", "msg"):
            for text in _messages(document.get(key), deep - 1):
                yield f"{'.'.join(places)}: {text}" if places else text


def _named(document: Any, deep: int = _DEEPEST) -> Iterator[str]:
    """Fields that a refusal names as such."""
    if not deep:
        return
    if isinstance(document, list):
        for each in document:
            yield from _named(each, deep - 1)
    elif isinstance(document, dict):
        if isinstance(document.get("param"), str):
            yield re.split(r"[.\[]", document["param"])[0]
        if isinstance(document.get("loc"), list):
            yield from (part for part in document["loc"] if isinstance(part, str))
        for key in ("error", "detail"):
            yield from _named(document.get(key), deep - 1)


def parsed(body: str) -> Any:
    """The JSON of a text that nobody vouches for; None if it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
