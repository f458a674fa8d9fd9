"""Rows of a teacher store on disk: cut into shards of fixed rows, each a safetensors file and its marker.

::

    <folder>/000003.safetensors    what the teacher gives at the targets of rows 192 to 255
    <folder>/000003.done           its sha256, whose rows these are, and of which store; written last

A row lies where its place in the data says, so the folder has no index. A shard appears by a rename and
counts once its marker stands; what a kill leaves is written again, from the same rows in the same
company, and becomes the same bytes. A file that is not what its marker says is named and never read.
"""

import hashlib
from array import array
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from kdbench.harness.errors import Damaged
from kdbench.harness.files.stages import Stage
from kdbench.harness.files.store import Say, write_bytes
from kdbench.trainers.types import Sequence

ROWS = 64
"""Rows of a shard: of these, what one is asked for is computed with the others."""
OPEN = 256
"""Shards that one process keeps mapped."""
REMEDY = "kdbench capture with the same settings makes it again"


@dataclass(eq=False)
class Shelf:
    """The shards of one collection of rows.

    Args:
        folder: of the store.
        store: its id.
        rows: all rows, in an order that never changes.
    """

    folder: Path
    store: str
    rows: Seq[Sequence]
    _open: dict[int, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return -(-len(self.rows) // ROWS)

    def rows_of(self, number: int) -> Seq[Sequence]:
        """The rows of a shard."""
        return self.rows[number * ROWS : (number + 1) * ROWS]

    def positions(self, number: int) -> int:
        """Targets of a shard."""
        return sum(row.targets for row in self.rows_of(number))

    def file(self, number: int) -> Path:
        """Where a shard is."""
        return self.folder / f"{number:06d}.safetensors"

    def stage(self, number: int) -> Stage:
        """What says that it is there."""
        return Stage(self.folder, f"{number:06d}", REMEDY)

    def ready(self, number: int, heal: Say | None = None) -> bool:
        """Whether a shard is there, byte by byte, and of these rows.

        Args:
            number: of the shard.
            heal: told of a damaged one by who can write it again.

        Raises:
            Damaged: it is not as it was written, and nobody heals it.
        """
        stage = self.stage(number)
        if not stage.done(heal):
            return False
        said = stage.info()
        if said["store"] == self.store and said["rows"] == rows_digest(self.rows_of(number)):
            return True
        problem = f"{self.file(number)} holds other rows than these"
        if heal is None:
            raise Damaged(f"{problem}; {REMEDY}")
        heal(f"note: {problem}: it is made again")
        stage.unmark()
        return False

    def write(self, number: int, tensors: Mapping[str, Tensor]) -> None:
        """A shard of what `kdbench.trainers.store.kinds` made of its rows."""
        ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        write_bytes(self.file(number), save(ready))
        info = {"store": self.store, "rows": rows_digest(self.rows_of(number))}
        self.stage(number).mark([self.file(number)], info)

    def read(self, number: int, begin: int, end: int) -> dict[str, Tensor]:
        """What a shard holds of some of its positions; nothing else is read from the disk.

        Raises:
            Damaged: it is not there, or not as it was written.
        """
        if number not in self._open:
            if not self.ready(number):
                raise Damaged(f"{self.file(number)} is gone; {REMEDY}")
            while len(self._open) >= OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[number] = safe_open(self.file(number), framework="pt")
        file = self._open[number]
        return {name: file.get_slice(name)[begin:end] for name in file.keys()}  # noqa: SIM118


def rows_digest(rows: Seq[Sequence]) -> str:
    """sha256 of rows as token ids."""
    digest = hashlib.sha256()
    for row in rows:
        sizes = array("q", (len(row.prompt), len(row.response)))
        digest.update(sizes.tobytes() + array("q", (*row.prompt, *row.response)).tobytes())
    return digest.hexdigest()
