"""Who gets which share of the fleet, and who has used how much of late: Slurm's two fair-share algorithms.

*Classic* (Slurm documentation, "Classic Fairshare Algorithm"): factor = 2^(-U_E / S / d) with S the product of
normalised shares down the tree, and the effective usage of a child U_E = U + (U_E of its parent - U) * its share
among its siblings. *Fair Tree* ("Fair Tree Fairshare Algorithm", contributed by Brigham Young University): at each
level, children are sorted by shares over usage among siblings; users are ranked depth first, and the factor is the
rank from below over their number.

Usage is device-seconds that decay by half in every half-life, the same for all, so that it is kept undecayed in the
unit of a growing present: charging and reading are O(depth) and O(1), and nobody is touched merely because time
passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from myriarch.errors import SpecError
from myriarch.event.base import Value

Algorithm = Literal["fair tree", "classic"]

HALF_LIFE_S: Final = 7 * 86_400.0
"""PriorityDecayHalfLife of slurm.conf: 7 days."""
RESCALE_AT: Final = 500.0
"""Half-lives after which the unit of usage is started afresh: before numbers come near the largest float."""
ROOT: Final = ""


class Account(Value, frozen=True, kw_only=True):
    """An account, or a user under one: a share among its siblings."""

    name: str
    shares: float = 1.0
    parent: str = ROOT


class Shares:
    """The tree of accounts with what each used.

    Invariant: an account's usage is its own charges and those of all below it, in units of `_unit` device-seconds.
    """

    def __init__(self, accounts: Sequence[Account], *, half_life_s: float = HALF_LIFE_S) -> None:
        self._accounts = {account.name: account for account in accounts}
        if len(self._accounts) != len(accounts) or ROOT in self._accounts:
            raise SpecError("two accounts have one name, or one has none", hint="name every account once")
        self._children: dict[str, list[Account]] = {ROOT: []}
        for account in accounts:
            if account.parent != ROOT and account.parent not in self._accounts:
                raise SpecError(f"account `{account.name}` is under `{account.parent}`, which is not there")
            if not account.shares > 0:
                raise SpecError(f"account `{account.name}` has `shares: {account.shares}`", hint="give it more than 0")
            self._children.setdefault(account.parent, []).append(account)
        self._paths = {account.name: self._path(account) for account in accounts}
        self._half_life_s = half_life_s
        self._usage = dict.fromkeys((ROOT, *self._accounts), 0.0)
        self._origin_s = 0.0

    @property
    def leaves(self) -> tuple[str, ...]:
        """Accounts without any below them: whose jobs there are."""
        return tuple(name for name in self._accounts if name not in self._children)

    def charge(self, account: str, device_s: float, *, at_s: float) -> None:
        """An account used so much around an instant."""
        halves = (at_s - self._origin_s) / self._half_life_s
        if halves > RESCALE_AT:
            decay = 2.0**-halves  # 0 where nothing is left
            self._usage = {name: used * decay for name, used in self._usage.items()}
            self._origin_s, halves = at_s, 0.0
        unit = 2.0**halves
        for name in self._paths[account]:
            self._usage[name] += device_s * unit
        self._usage[ROOT] += device_s * unit

    def usage(self, account: str) -> float:
        """Share of all decayed usage; 0 when there was none."""
        return self._usage[account] / self._usage[ROOT] if self._usage[ROOT] else 0.0

    def normalised(self, account: str) -> float:
        """The share of the whole fleet that it was promised."""
        share = 1.0
        for name in self._paths[account]:
            share *= self._among_siblings(name)
        return share

    def effective_usage(self, account: str) -> float:
        """Its usage, with what its siblings used of the common share."""
        effective = 0.0
        for depth, name in enumerate(reversed(self._paths[account])):
            own = self.usage(name)
            effective = own + (effective - own) * self._among_siblings(name) if depth else own
        return effective

    def classic(self, account: str, *, damping: float = 1.0) -> float:
        """Factor of the classic algorithm, 0..1; 0.5 for who used exactly its share."""
        return float(2.0 ** (-self.effective_usage(account) / self.normalised(account) / damping))

    def fair_tree(self) -> dict[str, float]:
        """Factors of all leaves by Fair Tree, 0..1; equal siblings have equal factors."""
        ranked: list[list[str]] = []
        self._rank(self._children[ROOT], ranked)
        count = sum(map(len, ranked))
        factors, above = {}, 0
        for equals in ranked:
            for name in equals:
                factors[name] = (count - above) / count
            above += len(equals)
        return factors

    def factors(self, algorithm: Algorithm = "fair tree") -> dict[str, float]:
        """The fair-share factor of every leaf."""
        if algorithm == "fair tree":
            return self.fair_tree()
        return {name: self.classic(name) for name in self.leaves}

    def level(self, account: Account) -> float:
        """Shares over usage, both among its siblings; infinite for who used nothing."""
        siblings = sum(self._usage[sibling.name] for sibling in self._children[account.parent])
        used = self._usage[account.name] / siblings if siblings else 0.0
        return self._among_siblings(account.name) / used if used else float("inf")

    def _rank(self, accounts: Sequence[Account], ranked: list[list[str]]) -> None:
        """Append groups of equal leaves, best first. Accounts that are equal have their children merged."""
        levels = {account.name: self.level(account) for account in accounts}
        for level in sorted(set(levels.values()), reverse=True):
            equals = [account for account in accounts if levels[account.name] == level]
            below = [child for account in equals for child in self._children.get(account.name, ())]
            leaves = [account.name for account in equals if account.name not in self._children]
            at = len(ranked)
            if below:
                self._rank(below, ranked)
            if not leaves:
                continue
            if at < len(ranked):
                ranked[at] += leaves  # as high as the best of an equal account
            else:
                ranked.append(leaves)

    def _among_siblings(self, name: str) -> float:
        account = self._accounts[name]
        return account.shares / sum(sibling.shares for sibling in self._children[account.parent])

    def _path(self, account: Account) -> tuple[str, ...]:
        """From an account up to below the root."""
        path = [account.name]
        while account.parent != ROOT:
            account = self._accounts[account.parent]
            if account.name in path:
                raise SpecError(f"account `{account.name}` is under itself")
            path.append(account.name)
        return tuple(path)
