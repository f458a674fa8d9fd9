"""The published numbers and what they are compared by, read from ``published/``."""

import csv
import io
from importlib.resources import files

import yaml

from kdbench.harness.files.records import Record


class Number(Record):
    """One row of ``published/numbers.csv``."""

    paper: str
    pair: str
    method: str
    setting: str
    task: str
    metric: str
    value: float
    digits: int
    status: str
    suites: list[str]
    options: dict[str, str]
    measure: str
    bucket: str
    factor: float
    causes: list[str]


class Settings(Record):
    """``published/ledger.yaml``."""

    edition: str
    protocol: str
    parameters: dict[str, float]
    prompts: dict[str, int]
    causes: dict[str, str]


def load_settings() -> Settings:
    """``ledger.yaml`` of the package."""
    return Settings.model_validate(yaml.safe_load(_data("ledger.yaml")))


def load_numbers() -> list[Number]:
    """``numbers.csv`` of the package."""
    return [_number(**row) for row in csv.DictReader(io.StringIO(_data("numbers.csv")))]


def _data(name: str) -> str:
    return (files("kdbench.reports.published") / name).read_text(encoding="utf-8")


def _number(suite: str, options: str, cause: str, **fields: str) -> Number:
    lists = {"suites": suite.split(), "causes": cause.split()}
    given = dict(word.split("=", 1) for word in options.split())
    digits = len(fields["value"].partition(".")[2])
    return Number.model_validate({**fields, **lists, "options": given, "digits": digits})
