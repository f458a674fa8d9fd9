"""Method files as people write them on a bad day: one fault each."""

from kdbench.harness.files.records import ModelRef

TEACHER = ModelRef(name="big", fingerprint="b" * 64, parameters=1_000_000)

HEAD = (
    "from kdbench.trainers.method import Card, Method, MethodConfig\n"
    "from kdbench.trainers.objectives.divergences import cross_entropy\n"
)
CARD = 'card = Card(title="T", paper="p", cost="1")'
GOOD = f'''"""A method."""

from pydantic import Field

from kdbench.trainers.method import Card, Method, MethodConfig
from kdbench.trainers.objectives.divergences import cross_entropy


class Own(Method):
    """Cross-entropy."""

    class Config(MethodConfig):
        """Its fields."""

        weight: float = Field(1.0, ge=0)

    {CARD}

    def loss(self, ctx, stream, micro):
        """The sum over the micro-batch."""
        sums = micro.sum(cross_entropy, teacher=False)
        return sums | {{"loss": self.config.weight * sums["loss"]}}
'''


PLAIN = "def loss(self, ctx, stream, micro):\n    return micro.sum(cross_entropy, teacher=False)\n"


def method(body: str, *, head: str = "", base: str = "Method", card: str = CARD) -> str:
    """A file with one method, whose class body ends with ``body`` behind a loss that works."""
    lines = "".join(f"    {line}\n" for line in (card, *PLAIN.splitlines(), *body.splitlines()))
    return f"{HEAD}import torch\n{head}\nclass Own({base}):\n{lines}"


def config(body: str) -> str:
    """A file whose method has fields."""
    return method(
        "class Config(MethodConfig):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    )


def more(function: str, body: str) -> str:
    """The good file with one more function."""
    return f"{GOOD}\n    def {function}:\n        {body}\n"


def loss(body: str) -> str:
    """A file whose loss is ``body``."""
    return method(f"def loss(self, ctx, stream, micro):\n    {body}")


DATACLASS = "from dataclasses import dataclass\n@dataclass\nclass Conf:\n    a: int = 1\n"
PYDANTIC = "from pydantic import BaseModel\nclass Conf(BaseModel):\n    a: int = 1\n"

FAULTY: dict[str, str | bytes] = {
    # before anything is defined
    "empty": "",
    "syntax": "class Own(:\n",
    "indentation": f"{HEAD}class Own(Method):\n  a = 1\n    b = 2\n",
    "tabs": f"{HEAD}class Own(Method):\n\ta = 1\n        b = 2\n",
    "nul": b"a = 1\x00\n",
    "latin-1": "é = 'é'\n".encode("latin-1"),
    "utf-16": GOOD.encode("utf-16"),
    "unknown encoding": "# -*- coding: nonsense -*-\n",
    "binary": bytes(range(256)) * 20,
    "not Python": "<html><body>404: Not Found</body></html>\n",
    "a notebook": '{"cells": [], "nbformat": 4, "metadata": {"a": null}}\n',
    "nested": "(" * 2000 + ")" * 2000,
    "long sum": "a = " + "+".join(["1"] * 30000),
    "import": "import nothing_of_that_name\n",
    "import from": "from kdbench.trainers.method import Nothing\n",
    "old import": "from kdbench.methods import Method\n",
    "own import": "import own\n",
    "relative import": "from . import other\n",
    "name": f"{HEAD}undefined\n",
    "exit": "import sys\nsys.exit(0)\n",
    "exit 3": "raise SystemExit('no')\n",
    "quit": "quit()\n",
    "raise": "raise Exception('bad\\nday')\n",
    "base exception": "raise BaseException('x')\n",
    "generator exit": "raise GeneratorExit\n",
    "assert": "assert False\n",
    "recursion": "def f(): f()\nf()\n",
    "zero": "1 / 0\n",
    "memory": "raise MemoryError\n",
    "unprintable": "class E(Exception):\n  def __str__(self): raise ValueError\nraise E\n",
    "group": "raise ExceptionGroup('many', [ValueError('a'), KeyError('b')])\n",
    "stdin": "input()\n",
    "missing file": "open('nothing.txt')\n",
    # what is defined
    "nothing": "a = 1\n",
    "no method": "class Own:\n    pass\n",
    "a function": f"{HEAD}def loss(ctx, stream, micro):\n    pass\n",
    "two": GOOD + GOOD.replace("class Own", "class Other"),
    "the base itself": HEAD,
    "an imported one": "from kdbench.trainers.methods.sft import SFT\n",
    "abstract": f"{HEAD}class Own(Method, abstract=True):\n    pass\n",
    "no card": f"{HEAD}class Own(Method):\n    pass\n",
    "card is text": method("pass", card='card = "Own"'),
    "card incomplete": method("pass", card='card = Card(title="x")'),
    "card unknown": method("pass", card='card = Card(title="T", paper="p", cost="1", a=1)'),
    "card positional": method("pass", card='card = Card("T", "p", "1")'),
    "card of numbers": method("pass", card="card = Card(title=1, paper=2, cost=3)"),
    "card of None": method("pass", card="card = Card(title=None, paper=None, cost=None)"),
    "card policy": method("pass", card='card = Card(title="T", paper="p", cost="1", policy="x")'),
    "card needs": method(
        "pass", card='card = Card(title="T", paper="p", cost="1", plain_text="no")'
    ),
    "unknown base": method("pass", base="Methd"),
    "method is shadowed": f"{HEAD}Method = object\nclass Own(Method):\n    {CARD}\n",
    "instance": GOOD + "\nOwn = Own(Own.Config())\n",
    "metaclass": method("pass", base="Method, int"),
    # its fields
    "nine fields": method(
        "class Config(MethodConfig):\n" + "".join(f"    a{n}: int = 0\n" for n in range(9))
    ),
    "field without default": config("a: int"),
    "field of another type": config("a: int = 'x'"),
    "field without type": config("a = 1"),
    "field of no type": config("a: 5 = 1"),
    "field of a tensor": config("a: torch.Tensor = None"),
    "field that is a tensor": config("a: object = torch.ones(2)"),
    "field that is infinite": config("a: float = float('inf')"),
    "field that is a function": config("a: object = print"),
    "field unknown": config("a: 'Nothing' = 1"),
    "config is none": method("Config = None"),
    "config is a dict": method("Config = {'a': 1}"),
    "config is a dataclass": method(
        "Config = Conf",
        head=DATACLASS,
    ),
    "config is an instance": method("Config = MethodConfig()"),
    "config of pydantic": method(
        "Config = Conf",
        head=PYDANTIC,
    ),
    "config raises": method(
        "class Config(MethodConfig):\n    a: int = 1\n    def model_post_init(self, _): raise KeyError('a')"
    ),
    "init raises": method("def __init__(self, config):\n    raise RuntimeError('no')"),
    "init with more": method("def __init__(self, config, other):\n    super().__init__(config)"),
    "init without": method("def __init__(self):\n    pass"),
    "init exits": method("def __init__(self, config):\n    raise SystemExit(0)"),
    # its functions
    "no loss": f"{HEAD}class Own(Method):\n    {CARD}\n",
    "loss is no function": method("loss = 5"),
    "loss takes less": method("def loss(self, micro):\n    return {}"),
    "loss takes more": method("def loss(self, ctx, stream, micro, more):\n    return {}"),
    "loss is static": method("@staticmethod\ndef loss(ctx, stream, micro):\n    return {}"),
    "loss of old names": f"{HEAD}class Own(Method):\n    {CARD}\n    def compute_loss(self): pass\n",
    "loss is a coroutine": method("async def loss(self, ctx, stream, micro):\n    return {}"),
    "loss yields": loss("yield 1"),
    "loss returns None": loss("pass"),
    "loss returns a number": loss("return 1.0"),
    "loss returns a tensor": loss("return torch.ones(())"),
    "loss returns no loss": loss("return {'a': torch.ones(())}"),
    "loss returns a list": loss("return [1]"),
    "loss without gradient": loss("return {'loss': torch.ones(())}"),
    "loss of a shape": loss("return {'loss': torch.ones(2, requires_grad=True)}"),
    "loss is not a number": loss("return {'loss': torch.tensor(float('nan'), requires_grad=True)}"),
    "loss is infinite": loss("return {'loss': torch.tensor(float('inf'), requires_grad=True)}"),
    "loss of whole numbers": loss("return {'loss': torch.ones((), dtype=torch.int64)}"),
    "loss of a name": loss("return undefined"),
    "loss of an attribute": loss("return micro.nothing"),
    "loss of a key": loss("return {}['loss']"),
    "loss divides": loss("return 1 / 0"),
    "loss recurs": loss("return self.loss(ctx, stream, micro)"),
    "loss exits": loss("raise SystemExit(0)"),
    "loss asserts": loss("assert False"),
    "loss of shapes that differ": loss("return {'loss': torch.ones(2) @ torch.ones(3)}"),
    "loss of a wrong objective": loss("return micro.sum(None)"),
    "window of nothing": method("def window(self, ctx, step):\n    pass"),
    "window is empty": method("def window(self, ctx, step):\n    return ()"),
    "window of texts": method("def window(self, ctx, step):\n    return ('a',)"),
    "window raises": method("def window(self, ctx, step):\n    raise IndexError(step)"),
    "window takes less": method("def window(self):\n    return ()"),
    "parameters of nothing": more("parameters(self, student_width, teacher_width)", "return None"),
    "parameters of numbers": more(
        "parameters(self, student_width, teacher_width)", "return {'a': 1}"
    ),
    "parameters take less": more("parameters(self)", "return {}"),
    "after_step raises": more("after_step(self, ctx, step, terms)", "raise ValueError('after')"),
    "after_step takes less": more("after_step(self)", "pass"),
    "remembers what is not there": GOOD + "\n    remembers = ('nothing',)\n",
    "remembers a text": GOOD + "\n    remembers = 'weight'\n",
    "remembers a set": GOOD + "\n    remembers = ('seen',)\n    seen = {1, 2}\n",
    "state raises": more("state_dict(self)", "raise ValueError('state')"),
}
