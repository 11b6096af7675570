"""The ledger of a fleet too large to paint device by device: device-nanoseconds counted for many devices at once.

`ledger` paints every device's time line; a simulation of 100,000 devices over months has none. It knows how many
devices spend how long in which leaf, and says so here. The sums are exact integers all the same, and they must use up
the capacity to the nanosecond: `Tally.ledger` raises where a device's time was spent twice or not at all. So
`account.factors` gives the four factors from it as from a real run.
"""

from __future__ import annotations

from collections.abc import Mapping

from myriarch.account.ledger import Account, Ledger
from myriarch.errors import LedgerError, SpecError
from myriarch.event.ids import PoolId
from myriarch.event.spans import LEAVES, LEVEL_OF, Leaf


class Tally:
    """Integer device-nanoseconds by pool and leaf.

    Invariant: no leaf of any pool is negative. Time spent in a step counts as kept until it is `move`d to `lost_work`.
    """

    def __init__(self, pools: Mapping[PoolId, int], *, start_ns: int) -> None:
        """`pools`: how many devices each has, spares included. `start_ns`: when their time begins to count."""
        for pool, devices in pools.items():
            if devices < 0:
                raise SpecError(f"pool `{pool}` has {devices} devices", hint="give 0 or more")
        self._devices = dict(pools)
        self._start_ns = start_ns
        self._spent: dict[PoolId, dict[Leaf, int]] = {pool: {} for pool in pools}

    def spend(self, pool: PoolId, leaf: Leaf, *, devices: int, duration_ns: int) -> None:
        """So many devices of a pool were in a leaf for so long. Raises LedgerError for less than none or no time."""
        if devices < 0 or duration_ns < 0:
            raise LedgerError(
                f"{devices} devices of `{pool}` for {duration_ns} ns in `{leaf}`",
                hint="time is spent, never given back: this is a defect of its caller",
            )
        leaves = self._of(pool)
        leaves[leaf] = leaves.get(leaf, 0) + devices * duration_ns

    def move(self, pool: PoolId, *, source: Leaf, target: Leaf, device_ns: int) -> None:
        """Judge anew what was spent: `useful_compute` of a step that was lost becomes `lost_work`.

        Raises LedgerError when the source has less than that.
        """
        leaves = self._of(pool)
        spent = leaves.get(source, 0)
        if not 0 <= device_ns <= spent:
            raise LedgerError(
                f"{device_ns} device-ns of `{pool}` cannot go from `{source}` to `{target}`: it has {spent}",
                hint="only what was spent can be judged anew: this is a defect of its caller",
            )
        leaves[source] = spent - device_ns
        leaves[target] = leaves.get(target, 0) + device_ns

    def spent_device_ns(self, pool: PoolId, leaf: Leaf) -> int:
        """So far."""
        return self._of(pool).get(leaf, 0)

    def remainder_device_ns(self, pool: PoolId, *, end_ns: int) -> int:
        """Capacity up to `end_ns` that was not spent yet; negative: more was spent than there is."""
        return self._capacity(pool, end_ns) - sum(self._of(pool).values())

    def ledger(self, *, end_ns: int) -> Ledger:
        """The ledger of all pools, without devices and nodes; nothing in it is provisional.

        Raises LedgerError unless every device-nanosecond of every pool was spent exactly once.
        """
        for pool in self._spent:
            rest = self.remainder_device_ns(pool, end_ns=end_ns)
            if rest:
                what = "are in no leaf" if rest > 0 else "were spent twice"
                raise LedgerError(
                    f"{abs(rest)} device-ns of `{pool}` {what}",
                    hint="every device-nanosecond is spent exactly once: this is a defect of whoever counted them",
                )
        pools = {pool: _account(self._capacity(pool, end_ns), leaves) for pool, leaves in self._spent.items()}
        total: dict[Leaf, int] = {}
        for account in pools.values():
            for leaf, spent in account.leaves.items():
                total[leaf] = total.get(leaf, 0) + spent
        ledger = Ledger(
            devices={},
            nodes={},
            pools=pools,
            total=_account(sum(account.capacity_device_ns for account in pools.values()), total),
            provisional_device_ns=0,
        )
        ledger.check()
        return ledger

    def check(self) -> None:
        """Invariants."""
        for pool, leaves in self._spent.items():
            assert all(leaf in LEVEL_OF for leaf in leaves), f"{pool}: leaves are the ledger's"
            assert all(spent >= 0 for spent in leaves.values()), f"{pool}: no leaf is negative"

    def _capacity(self, pool: PoolId, end_ns: int) -> int:
        return self._devices[pool] * (end_ns - self._start_ns)

    def _of(self, pool: PoolId) -> dict[Leaf, int]:
        leaves = self._spent.get(pool)
        if leaves is None:
            raise LedgerError(f"`{pool}` is none of the pools {', '.join(self._spent)}", hint="name one of them")
        return leaves


def _account(capacity_device_ns: int, leaves: Mapping[Leaf, int]) -> Account:
    return Account(
        capacity_device_ns=capacity_device_ns, leaves={leaf: leaves[leaf] for leaf in LEAVES if leaves.get(leaf)}
    )
