"""Commands at the size of a test, with what lies there before them: models of a few thousand parameters."""

import shutil
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
import zoo
from crashes import Nursery, Scene, money
from judge_server import Action, say
from transformers import LlamaConfig, LlamaForCausalLM

from kdbench.tasks import mini

SUITE = """
extends: mini-test
suite: crash
pair: {teacher: teacher, student: student.json}
data: {limit: 8, dev_limit: 2, text_limit: 20}
train: {steps: 3, batch_size: 2, warmup: 1, eval_every: 2, save_every: 1, max_length: 72}
init_sft: {steps: 1}
teacher_sft: {steps: 1}
generate: {batch_size: 4, chunk: 2, max_new_tokens: 6}
tasks: {names: [dolly], limit: 3, probes: [exposure, calibration, loss, truth, self_bleu], probe_samples: 2}
"""
STUDY = """
title: Two methods
suite: suite.yaml
tasks: [dolly]
seeds: [10]
base: plain
rows:
  - {label: plain, method: sft}
  - {label: taught, method: fkd}
"""
SMALL = {
    "minillm": "{rollouts: 4, inner_epochs: 2}",
    "minillm-code": "{rollouts: 4, inner_epochs: 2}",
}


def verdict(body: dict[str, object], number: int) -> Action:
    """A judge whose grade follows from the question."""
    return say(f"SCORE: {1 + len(str(body['messages'])) % 10}")


class Stage:
    """Makes scenes, all in one folder.

    Args:
        nursery: who runs them.
        scratch: where.
    """

    def __init__(self, nursery: Nursery, scratch: Path) -> None:
        self._nursery = nursery
        self._scratch = scratch
        self._cold = scratch / "cold"
        make_pair(self._cold)

    @cached_property
    def _warm(self) -> Path:
        return self._kept("warm", self._cold, run("sft"))

    def scene(self, name: str, url: str) -> Scene:
        """A scene by its name: a verb, a method (its training), or ``run`` or ``cold`` and a method."""
        if name == "judge":
            return self.judge(url)
        if name in ("eval", "score", "ablate"):
            made: Scene = getattr(self, name)()
            return made
        kind, _, method = name.rpartition(" ")
        make = {"cold": self.cold, "run": self.warm, "": self.train}[kind]
        return make(method)

    def cold(self, method: str) -> Scene:
        """A first run: teacher, base, init, teacher answers and references are made."""
        return self._scene(f"{method}, first run", run(method), self._cold)

    def warm(self, method: str) -> Scene:
        """A run that finds what the runs before it shared; no probes, which `cold` has."""
        return self._scene(method, [*run(method), "--set", "tasks.probes=[]"], self._warm)

    def train(self, method: str) -> Scene:
        """Its training alone, the only part that differs from method to method."""
        return self._scene(method, ["train", *run(method)[1:]], self._warm)

    def eval(self) -> Scene:
        """More tasks, with probes, for a trained run."""
        more = ["--tasks", "selfinst,cls", "--probes", "exposure,calibration,loss"]
        where = ["--teacher", "teacher", "--set", "tasks.probe_samples=2", "--quiet"]
        return self._scene("eval", ["eval", self._run(), *more, *where], self._warm)

    def score(self) -> Scene:
        """Stored answers scored again."""
        return self._scene("score", ["score", "runs"], self._warm)

    def judge(self, url: str) -> Scene:
        """A judge asked about all answers of a run."""
        sizes = ["--set", "concurrency=1", "--set", "sanity_prompts=1", "--set", "seeds=1"]
        asked = ["judge", self._run(), "--judge-base-url", url, *sizes, "--quiet"]
        return replace(self._scene("judge", asked, self._warm), check=money)

    def ablate(self) -> Scene:
        """A study of two methods, one of which is done."""
        asked = ["ablate", "study.yaml", "--out", "runs/study", "--quiet"]
        return self._scene("ablate", asked, self._warm)

    def _run(self) -> str:
        (found,) = (self._warm / "runs").glob("sft-student*")
        return f"runs/{found.name}"

    def _scene(self, name: str, arguments: list[str], before: Path) -> Scene:
        return Scene(self._nursery, name, arguments, self._scratch / "stage", before)

    def _kept(self, name: str, before: Path, arguments: list[str]) -> Path:
        """What a command leaves, as the start of others."""
        scene = self._scene(name, arguments, before)
        scene.rehearse()
        return Path(shutil.copytree(scene.stage, self._scratch / name))


def run(method: str) -> list[str]:
    """A run of the suite by a method."""
    settings = [f"method.{key}={value}" for key, value in options(method).items()]
    sets = [part for setting in settings for part in ("--set", setting)]
    return ["run", "--suite", "suite.yaml", "--method", method, *sets, "--quiet"]


def options(method: str) -> dict[str, object]:
    """A method's settings that make much happen in three steps."""
    small = dict(zoo.OPTIONS.get(method, {}))
    if method in SMALL:
        small["ppo"] = SMALL[method]
    if method == "plad":
        small["prompts"] = 4
    return small


def make_pair(folder: Path) -> None:
    """Teacher, student, suite and study, and empty folders of runs and of what they share."""
    for name in ("runs", "cache", "student"):
        (folder / name).mkdir(parents=True)
    torch.manual_seed(0)
    LlamaForCausalLM(shape(width=8, layers=2)).save_pretrained(folder / "teacher")
    mini.build_tokenizer().save_pretrained(folder / "teacher")
    shape(width=4, layers=1).save_pretrained(folder / "student")
    shutil.move(folder / "student" / "config.json", folder / "student.json")
    shutil.rmtree(folder / "student")
    (folder / "suite.yaml").write_text(SUITE)
    (folder / "study.yaml").write_text(STUDY)


def shape(width: int, layers: int) -> LlamaConfig:
    """An architecture of the generated world, narrower."""
    config = mini.model_config("student", "mini-test")
    changes = {
        "hidden_size": width,
        "intermediate_size": width,
        "num_hidden_layers": layers,
        "head_dim": width // 2,
    }
    return LlamaConfig(**{**config.to_dict(), **changes})
