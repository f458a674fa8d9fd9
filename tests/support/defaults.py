"""The defaults that identities leave out, as they are now; ``python tests/support/defaults.py`` keeps them.

Run it after a field was added. After a default's value was changed, raise
`kdbench.harness.identity.VERSION` first: ids made before mean something else from then on.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from kdbench.harness.config import NOT_HASHED, DataConfig, TrainConfig
from kdbench.harness.files.records import DecodingRecord, EvaluationRecord
from kdbench.harness.identity import VERSION
from kdbench.harness.own_methods import METHODS
from kdbench.harness.registry import find_method
from kdbench.trainers.lora.settings import Lora

FILE = Path(__file__).parents[1] / "identity_defaults.yaml"


def hashed_sections() -> dict[str, type[BaseModel]]:
    """Every class whose departures from its defaults are hashed."""
    sections: dict[str, type[BaseModel]] = {
        "train": TrainConfig,
        "lora": Lora,
        "data": DataConfig,
        "evaluation": EvaluationRecord,
        "decoding": DecodingRecord,
    }
    methods = {f"method.{name}": find_method(name).method.Config for name in METHODS}
    return sections | methods


def defaults_of(section: type[BaseModel], above: str) -> dict[str, Any]:
    """Default values by dotted key, as they are compared with what is hashed."""
    found: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        if field.is_required() or name in NOT_HASHED:
            continue
        value = field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            found |= defaults_of(type(value), f"{above}.{name}")
        else:
            found[f"{above}.{name}"] = list(value) if isinstance(value, tuple) else value
    return found


def all_defaults() -> dict[str, Any]:
    """Of all sections."""
    found: dict[str, Any] = {}
    for name, section in hashed_sections().items():
        found |= defaults_of(section, name)
    return found


def problems(kept: dict[str, Any], now: dict[str, Any], version: int) -> list[str]:
    """What is wrong with the defaults of now beside those that were kept."""
    found = [
        f"{key} is not kept yet; run tests/support/defaults.py"
        for key in now.keys() - kept["defaults"].keys()
    ]
    if version == kept["version"]:
        found += [
            f"{key} was {value!r}, is {now.get(key, 'gone')!r}: raise identity.VERSION"
            for key, value in kept["defaults"].items()
            if key not in now or now[key] != value
        ]
    elif now != kept["defaults"]:
        found.append("a new version: run tests/support/defaults.py")
    return sorted(found)


if __name__ == "__main__":
    FILE.write_text(yaml.safe_dump({"version": VERSION, "defaults": all_defaults()}, width=100))
