"""Defines Instances: the cells of one image as a struct of arrays, validated once, used by every stage.

The order of the class, the score and the mask of a cell is its index. Masks are COCO-compressed RLE
(column-major, as pycocotools writes them) of the full image: small, exact, and readable by others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

State = Literal["human", "predicted", "accepted", "ignored", "rejected"]
STATES: tuple[State, ...] = ("human", "predicted", "accepted", "ignored", "rejected")

# Column name -> dtype of the numeric per-cell arrays, in the order of the Arrow schema.
NUMERIC: dict[str, type[np.generic]] = {
    "class_id": np.int32,
    "score": np.float32,
    "quality": np.float32,
    "weight": np.float32,
    "area": np.int64,
    "votes": np.int32,
    "agreement": np.float32,
    "round": np.int32,
}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Instances:
    """The N cells of one image of `height` x `width` pixels.

    Shapes and dtypes: `bbox` int32 (N, 4) as x0, y0, x1, y1, half-open; `rle` N COCO-compressed strings
    (bytes, column-major); `class_id` int32; `score` float32 in [0, 1], what the model believes;
    `quality` float32 in [0, 1], the calibrated P(IoU > .5), equal to `score` before calibration;
    `weight` float32 >= 0, its weight in a loss; `area` int64 in pixels; `votes` int32, teachers that saw
    it; `agreement` float32 in [0, 1], the mean pairwise mask IoU of what they saw (1 where there was one mask, and
    for human labels); `round` int32, the round whose teachers made it (0 for human labels); `state` and `reason`
    N strings. `background` is the mask (RLE of the whole image) of the pixels where the models are sure that there is
    nothing; None: it was not asked for, or a person drew the cells, and all that no cell covers is background.
    Masks may overlap. Raises ValueError, stating expected and got, when the arrays do not fit.
    """

    height: int
    width: int
    class_id: NDArray[np.int32]
    score: NDArray[np.float32]
    quality: NDArray[np.float32]
    weight: NDArray[np.float32]
    area: NDArray[np.int64]
    votes: NDArray[np.int32]
    agreement: NDArray[np.float32]
    round: NDArray[np.int32]
    bbox: NDArray[np.int32]
    rle: tuple[bytes, ...]
    state: tuple[State, ...]
    reason: tuple[str, ...]
    background: bytes | None = None

    def __post_init__(self) -> None:
        n = len(self.rle)
        for name, dtype in NUMERIC.items():
            value = getattr(self, name)
            if value.shape != (n,) or value.dtype != dtype:
                raise ValueError(f"{name}: expected {np.dtype(dtype)} ({n},), got {value.dtype} {value.shape}")
        if self.bbox.shape != (n, 4) or self.bbox.dtype != np.int32:
            raise ValueError(f"bbox: expected int32 ({n}, 4), got {self.bbox.dtype} {self.bbox.shape}")
        if len(self.state) != n or len(self.reason) != n:
            raise ValueError(f"state and reason: expected {n} each, got {len(self.state)}, {len(self.reason)}")
        unknown = set(self.state) - set(STATES)
        if unknown:
            raise ValueError(f"state: expected {STATES}, got {sorted(unknown)}")
        for name in ("score", "quality", "agreement"):
            value = getattr(self, name)
            if n and not (np.isfinite(value).all() and value.min() >= 0 and value.max() <= 1):
                raise ValueError(f"{name}: expected finite values in [0, 1], got {value}")

    def __len__(self) -> int:
        return len(self.rle)

    def __repr__(self) -> str:
        """`Instances(43 cells, 192x256, {shsy5y: 40, cort: 3})`: the size as height x width, cells by class."""
        counts = ", ".join(f"{name}: {count}" for name, count in Counter(self.class_names()).most_common())
        return f"Instances({len(self)} cells, {self.height}x{self.width}, {{{counts}}})"

    def class_names(self) -> list[str]:
        """The class of each cell in words; of cells that do not know the names of their classes, its number."""
        return [str(number) for number in self.class_id.tolist()]

    def main_class(self) -> int | None:
        """The class id of most cells, of equal ones the first; None without cells."""
        return int(np.bincount(self.class_id).argmax()) if len(self) else None

    def select(self, index: NDArray[Any] | Sequence[int]) -> Self:
        """The cells at `index` (bool (N,) or integer), in that order."""
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        index = index.astype(np.int64).reshape(-1)
        changes: dict[str, Any] = {name: getattr(self, name)[index] for name in (*NUMERIC, "bbox")}
        places = index.tolist()
        for name in ("rle", "state", "reason"):
            value = getattr(self, name)
            changes[name] = tuple([value[i] for i in places])
        return replace(self, **changes)

    def in_state(self, *states: State) -> Self:
        """The cells in one of these states, in their order."""
        return self.select(np.array([state in states for state in self.state], dtype=bool))

    def with_(self, **changes: Any) -> Self:
        """A copy with some columns replaced; scalars are spread over all cells, dtypes are cast."""
        n = len(self)
        cast: dict[str, Any] = {}
        for name, value in changes.items():
            if name in NUMERIC:
                cast[name] = np.broadcast_to(np.asarray(value, dtype=NUMERIC[name]), (n,)).copy()
            elif isinstance(value, str):
                cast[name] = (value,) * n
            else:
                cast[name] = tuple(value) if name in ("state", "reason", "rle") else value
        return replace(self, **cast)

    @classmethod
    def build(
        cls,
        height: int,
        width: int,
        rle: Sequence[bytes],
        bbox: NDArray[Any],
        area: NDArray[Any],
        *,
        class_id: Any = 0,
        score: Any = 1.0,
        quality: Any = None,
        weight: Any = 1.0,
        votes: Any = 1,
        agreement: Any = 1.0,
        round: Any = 0,
        state: State | Sequence[State] = "predicted",
        reason: str | Sequence[str] = "",
    ) -> Self:
        """Build from masks and scalars or arrays; `quality` defaults to `score`."""
        n = len(rle)
        given = {
            "class_id": class_id,
            "score": score,
            "quality": score if quality is None else quality,
            "weight": weight,
            "area": area,
            "votes": votes,
            "agreement": agreement,
            "round": round,
        }
        arrays: dict[str, Any] = {
            name: np.broadcast_to(np.asarray(value, dtype=NUMERIC[name]), (n,)).copy() for name, value in given.items()
        }
        return cls(
            height=height,
            width=width,
            bbox=np.asarray(bbox, dtype=np.int32).reshape(n, 4),
            rle=tuple(rle),
            state=(state,) * n if isinstance(state, str) else tuple(state),
            reason=(reason,) * n if isinstance(reason, str) else tuple(reason),
            **arrays,
        )

    @classmethod
    def empty(cls, height: int, width: int) -> Self:
        """No cells in an image of this size."""
        return cls.build(height, width, (), np.zeros((0, 4)), np.zeros(0))

    @classmethod
    def concat(cls, height: int, width: int, parts: Sequence[Instances]) -> Self:
        """All cells of `parts`, in order; all must be of one image size."""
        for part in parts:
            if (part.height, part.width) != (height, width):
                raise ValueError(f"expected {height}x{width}, got {part.height}x{part.width}")
        if not parts:
            return cls.empty(height, width)
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(p, name) for p in parts]) for name in (*NUMERIC, "bbox")
        }
        tuples: dict[str, Any] = {
            name: tuple(v for p in parts for v in getattr(p, name)) for name in ("rle", "state", "reason")
        }
        return cls(height=height, width=width, background=None, **arrays, **tuples)


COLUMNS = tuple(field.name for field in fields(Instances) if field.name not in ("height", "width", "background"))
