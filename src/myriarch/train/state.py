"""The live state of a training script, seen as named leaves.

A state is what DCP takes: nested dicts of tensors (plain or DTensor) and values, or objects with `state_dict` and
`load_state_dict`. Names are the keys joined by dots, as in DCP. Tensors are read and written in place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Final, NamedTuple

from torch.distributed.checkpoint.stateful import Stateful

from myriarch.errors import UsageError

Path = tuple[str, ...]


class Leaf(NamedTuple):
    """One tensor or value."""

    path: Path
    content: Any

    @property
    def name(self) -> str:
        return ".".join(self.path)


class LiveState:
    """A script's state. Its structure is the same for the whole run; tensors may be replaced, values change."""

    def __init__(self, state: MutableMapping[str, Any]) -> None:
        self._state: Final = state

    def leaves(self) -> dict[str, Leaf]:
        """All leaves in canonical order, that of their names. Raises UsageError when two have one name."""
        found: dict[str, Leaf] = {}
        for path, content in _walk((), self._plain()):
            leaf = Leaf(path, content)
            if leaf.name in found:
                raise UsageError(
                    f"two entries of the state are called `{leaf.name}`; dots in keys made them equal: rename one"
                )
            found[leaf.name] = leaf
        return dict(sorted(found.items()))

    def accept(self, values: Mapping[str, Any]) -> None:
        """Put restored values in their places; tensors were restored in place. Objects get their whole state again."""
        plain = self._plain()
        for path, _ in list(_walk((), plain)):
            name = ".".join(path)
            if name in values:
                _put(plain, path, values[name])
        for key, part in list(self._state.items()):
            if _is_stateful(part):
                part.load_state_dict(plain[key])
            else:
                self._state[key] = plain[key]

    def _plain(self) -> dict[str, Any]:
        return {key: part.state_dict() if _is_stateful(part) else part for key, part in self._state.items()}


def _is_stateful(part: Any) -> bool:
    return isinstance(part, Stateful) and not isinstance(part, Mapping)


def _walk(path: Path, part: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(part, Mapping):
        for key, child in part.items():
            yield from _walk((*path, str(key)), child)
    else:
        yield path, part


def _put(root: Any, path: Path, value: Any) -> None:
    """Set the leaf at `path`; keys may be of any type whose text is the path's."""
    place = root
    for part in path[:-1]:
        place = place[_key(place, part)]
    place[_key(place, path[-1])] = value


def _key(place: Mapping[Any, Any], text: str) -> Any:
    return next(key for key in place if str(key) == text)
