"""States in slots and on disk: restored in place, resharded by DCP, loaded without Myriarch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from myriarch.arena.manifest import MANIFEST_NAME, read_manifest, scan_checkpoints, verify
from myriarch.arena.slot import Slot
from myriarch.errors import EnvironmentFault, IntegrityError, UsageError
from myriarch.event.ids import GroupId, Incarnation, Rank, Step
from myriarch.train.agent_link import NoAgent
from myriarch.train.dcp import MemoryReader, MemoryWriter
from myriarch.train.digest import to_hex
from myriarch.train.drain import run_job
from myriarch.train.index import Entry, decode_index, decode_value, encode_index, encode_value, layout_hash
from myriarch.train.memory_tier import MemoryTier
from myriarch.train.restore import load_from_folder, load_from_slots
from myriarch.train.snapshot import SnapshotPlan, open_verified
from myriarch.train.state import LiveState
from myriarch.train.worker import cause_of
from myriarch.wire.worker import Sealed, SlotRequest, Slots
from myriarch.wire.zygote import DrainJob, ForkDrain

STEP, FIRST = Step(12), Incarnation(1)


class Holder:
    """An object with a state dict, as modules and optimizers are."""

    def __init__(self, weight: Tensor, epoch: int) -> None:
        self.weight, self.epoch = weight, epoch
        self.loaded = 0

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weight, self.epoch = state["weight"], state["epoch"]
        self.loaded += 1


def state_of(*, filled: bool) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(5)

    def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        values = torch.randn(shape, generator=generator)
        return (values if filled else torch.zeros_like(values)).to(dtype)

    return {
        "model": {"layers.0.weight": tensor(300, 400), "bias": tensor(7), "half": tensor(5, dtype=torch.bfloat16)},
        "turned": tensor(4, 6).t(),
        "scalar": tensor(),
        "empty": tensor(0, 3),
        "count": torch.tensor([1 if filled else 0]),
        "holder": Holder(tensor(3, 3), 9 if filled else 0),
        "seen": {"words": ["a", "b"] if filled else [], "ratio": 0.5 if filled else 0.0},
        "epoch": 4 if filled else 0,
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Holder):
        return same(one.state_dict(), other.state_dict())
    return bool(torch.equal(one, other)) if isinstance(one, Tensor) else bool(one == other)


MakeSlot = Callable[..., Slot]


@pytest.fixture
def make_slot(tmp_path: Path) -> Iterator[MakeSlot]:
    made: list[Slot] = []

    def make(layout: str, payload_bytes: int, index_bytes: int, *, rank: int = 0, world_size: int = 1) -> Slot:
        slot = Slot.create(
            tmp_path / f"slot{len(made)}",
            run_id="r", group=GroupId("a"), rank=Rank(rank), world_size=world_size, role="own", layout_hash=layout,
            payload_bytes=payload_bytes, index_bytes=index_bytes,
        )  # fmt: skip
        made.append(slot)
        return slot

    yield make
    for slot in made:
        slot.close()


def snapshot(state: dict[str, Any], make_slot: MakeSlot) -> tuple[Slot, SnapshotPlan]:
    leaves = LiveState(state).leaves()
    plan = SnapshotPlan(leaves, rank=0)
    slot = make_slot(plan.layout_hash, plan.payload_bytes, plan.index_room_bytes)
    plan.write(slot, leaves, step=STEP, incarnation=FIRST)
    slot.verify()
    return slot, plan


def test_a_state_is_restored_in_place(make_slot: MakeSlot) -> None:
    slot, plan = snapshot(state_of(filled=True), make_slot)
    state = state_of(filled=False)
    weight = state["model"]["layers.0.weight"]
    live = LiveState(state)
    other = SnapshotPlan(live.leaves(), rank=0)
    assert other.layout_hash == plan.layout_hash
    with open_verified(str(slot.path), layout=other.layout_hash) as reading:
        live.accept(other.read(reading))
    assert same(state, state_of(filled=True))
    assert state["model"]["layers.0.weight"] is weight
    assert state["holder"].loaded == 1
    other.refresh(live.leaves())
    assert to_hex(other.digest()) == slot.digest


def test_a_damaged_slot_is_not_restored(make_slot: MakeSlot) -> None:
    slot, plan = snapshot(state_of(filled=True), make_slot)
    slot.payload[1000] ^= 1
    with (
        open_verified(str(slot.path), layout=plan.layout_hash) as reading,
        pytest.raises(IntegrityError, match="block 0"),
    ):
        plan.read(reading)
    with pytest.raises(IntegrityError, match="does not match its hash"):
        load_from_slots((str(slot.path),), LiveState(state_of(filled=False)).leaves())


def test_another_layout_is_not_restored_in_place(make_slot: MakeSlot) -> None:
    slot, _ = snapshot(state_of(filled=True), make_slot)
    with pytest.raises(IntegrityError, match="no snapshot of this worker's layout"):
        open_verified(str(slot.path), layout="other")


def test_a_slot_that_is_gone_is_no_error_of_the_script(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="does not exist; its agent may have") as raised:
        open_verified(str(tmp_path / "gone.slot"), layout="any")
    assert cause_of(raised.value) == "collective_error"


def test_a_slot_that_its_agent_takes_is_no_error_of_the_script(
    make_slot: MakeSlot, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Slot] = []

    class Agent(NoAgent):
        def ask_slots(self, request: SlotRequest) -> Slots:
            pair = [make_slot(request.layout_hash, request.payload_bytes, request.index_bytes) for _ in range(2)]
            made.extend(pair)
            return Slots(paths=(str(pair[0].path), str(pair[1].path)))

    tier = MemoryTier(state_of(filled=True), rank=0, link=Agent(group=GroupId("a"), sequences=1), reset=None)
    assert tier.save(step=STEP, incarnation=FIRST, wait=False)[0] == 0
    begin = Slot.begin

    def taken(slot: Slot, *, step: Step, incarnation: Incarnation, index: bytes) -> None:
        begin(slot, step=step, incarnation=incarnation, index=index)
        begin(made[1], step=Step(step - 1), incarnation=incarnation, index=index)

    monkeypatch.setattr(Slot, "begin", taken)
    with pytest.raises(EnvironmentFault, match="only a fill that this process began can be sealed") as raised:
        tier.save(step=STEP, incarnation=FIRST, wait=False)
    assert cause_of(raised.value) == "collective_error"
    tier.close()


def test_a_plan_notices_moved_tensors_and_grown_values(make_slot: MakeSlot) -> None:
    state = state_of(filled=True)
    live = LiveState(state)
    plan = SnapshotPlan(live.leaves(), rank=0)
    assert plan.fits(live.leaves())
    state["seen"]["words"] = ["c"] * 10
    assert plan.fits(live.leaves())
    state["seen"]["words"] = ["c"] * 10_000
    assert not plan.fits(live.leaves())
    state["seen"]["words"] = []
    state["model"]["bias"] = torch.zeros(7)
    assert not plan.fits(live.leaves())


def test_a_rehearsal_leaves_nothing(make_slot: MakeSlot) -> None:
    leaves = LiveState(state_of(filled=True)).leaves()
    plan = SnapshotPlan(leaves, rank=0)
    slot = make_slot(plan.layout_hash, plan.payload_bytes, plan.index_room_bytes)
    assert plan.rehearse(slot, leaves) > 0
    assert not slot.sealed


def test_what_cannot_be_saved_is_named() -> None:
    with pytest.raises(TypeError, match=r"state entry `a\.b` cannot be saved: it holds a object; use tensors"):
        SnapshotPlan(LiveState({"a": {"b": [object()]}, "t": torch.ones(1)}).leaves(), rank=0)
    with pytest.raises(UsageError, match=r"two entries of the state are called `a\.b`"):
        LiveState({"a": {"b": 1}, "a.b": 2}).leaves()


def test_an_index_that_is_none_is_refused() -> None:
    entry = Entry(name="a", path=("a",), kind="value", offset_bytes=0, size_bytes=1)
    assert decode_index(encode_index([entry]), source="x") == (entry,)
    assert layout_hash([entry]) == layout_hash(
        [Entry(name="a", path=("a",), kind="value", offset_bytes=0, size_bytes=2)]
    )
    with pytest.raises(IntegrityError, match="x: the index is intact but not of this version"):
        decode_index(b"\x93\x01\x02\x03", source="x")
    with pytest.raises(IntegrityError, match="holds no value"):
        decode_value(b"\xc1", name="a")
    assert decode_value(encode_value({"k": [1, b"x", None]}, name="a"), name="a") == {"k": [1, b"x", None]}


# --- DCP on the memory tier ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_dcp_saves_to_a_slot_and_loads_from_it(make_slot: MakeSlot) -> None:
    made: list[Slot] = []

    def make(layout: str, payload_bytes: int, index_bytes: int) -> Slot:
        made.append(make_slot(layout, payload_bytes, index_bytes))
        return made[-1]

    saved = state_of(filled=True)
    del saved["empty"]
    writer = MemoryWriter(make, step=STEP, incarnation=FIRST)
    dcp.save(saved, storage_writer=writer, no_dist=True)
    assert made[0].header.root == writer.root
    made[0].verify()
    state = state_of(filled=False)
    del state["empty"]
    dcp.load(state, storage_reader=MemoryReader([str(made[0].path)]), no_dist=True)
    assert same(state, saved)


def test_a_state_that_the_checkpoint_lacks_is_named(make_slot: MakeSlot) -> None:
    slot, _ = snapshot({"a": torch.ones(3)}, make_slot)
    leaves = LiveState({"a": torch.ones(3), "b": torch.ones(2)}).leaves()
    with pytest.raises(UsageError, match="the checkpoint lacks `b`"):
        load_from_slots((str(slot.path),), leaves)


# --- drains ----------------------------------------------------------------------------------------------------------


def drained(slot: Slot, folder: Path, **changes: Any) -> Path:
    filling, final = folder / "filling", folder / f"step-{STEP:08d}"
    fields: dict[str, Any] = {"step": STEP, "incarnation": FIRST, "path": str(filling), "run_hash": "hash"}
    written = run_job(
        DrainJob(kind="shards", slot_paths=(str(slot.path),), shards=((GroupId("a"), Rank(0)),), **fields)
    )
    assert written > slot.payload_bytes // 2
    run_job(DrainJob(kind="finish", final_path=str(final), **fields, **changes))
    assert not filling.exists()
    return final


def test_a_drained_checkpoint_has_a_manifest_and_is_restored(make_slot: MakeSlot, tmp_path: Path) -> None:
    slot, _ = snapshot(state_of(filled=True), make_slot)
    final = drained(slot, tmp_path)
    manifest = verify(final)
    assert (manifest.step, manifest.run_hash, manifest.world_size, manifest.digest) == (STEP, "hash", 1, slot.digest)
    assert sorted(path.name for path in final.iterdir()) == sorted(
        [MANIFEST_NAME, *(file.name for file in manifest.files)]
    )
    assert [found.path for found in scan_checkpoints(tmp_path)] == [final]
    state = state_of(filled=False)
    live = LiveState(state)
    live.accept(load_from_folder(str(final), live.leaves()))
    assert same(state, state_of(filled=True))


def test_finishing_twice_and_again_is_harmless(make_slot: MakeSlot, tmp_path: Path) -> None:
    slot, _ = snapshot(state_of(filled=True), make_slot)
    final = drained(slot, tmp_path)
    fields: dict[str, Any] = {"step": STEP, "incarnation": FIRST, "path": str(tmp_path / "filling"), "run_hash": "hash"}
    run_job(DrainJob(kind="finish", final_path=str(final), **fields))
    assert drained(slot, tmp_path) == final  # the same step once more, after a rollback
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [final.name]


def test_older_checkpoints_are_deleted_and_nothing_else(make_slot: MakeSlot, tmp_path: Path) -> None:
    slot, _ = snapshot(state_of(filled=True), make_slot)
    old = tmp_path / "step-00000004"
    old.mkdir()
    drained(slot, tmp_path, delete_paths=(str(old),))
    assert not old.exists()
    elsewhere = tmp_path / "deep" / "step-00000004"
    elsewhere.mkdir(parents=True)
    with pytest.raises(UsageError, match="no older checkpoint beside"):
        drained(slot, tmp_path, delete_paths=(str(elsewhere),))
    assert elsewhere.exists()


def test_a_folder_without_all_shards_does_not_become_a_checkpoint(make_slot: MakeSlot, tmp_path: Path) -> None:
    leaves = LiveState({"a": torch.ones(3)}).leaves()
    plan = SnapshotPlan(leaves, rank=0)
    slot = make_slot(plan.layout_hash, plan.payload_bytes, plan.index_room_bytes, world_size=2)
    plan.write(slot, leaves, step=STEP, incarnation=FIRST)
    with pytest.raises(IntegrityError, match=r"has the shards of ranks \[0\], not of all 2"):
        drained(slot, tmp_path)
    assert list(scan_checkpoints(tmp_path)) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_a_damaged_checkpoint_is_refused(make_slot: MakeSlot, tmp_path: Path, damage: str) -> None:
    slot, _ = snapshot(state_of(filled=True), make_slot)
    final = drained(slot, tmp_path)
    data = final / "__0_0.distcp"
    if damage == "flip":
        content = bytearray(data.read_bytes())
        content[5000] ^= 4
        data.write_bytes(content)
    elif damage == "cut":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "remove":
        data.unlink()
    else:
        (final / MANIFEST_NAME).write_text("{}")
    with pytest.raises(IntegrityError, match=str(final)):
        load_from_folder(str(final), LiveState(state_of(filled=False)).leaves())
    if damage != "flip":
        with pytest.raises(IntegrityError):
            read_manifest(final)
        assert list(scan_checkpoints(tmp_path)) == []


def test_a_manifest_cannot_name_files_outside_its_folder(make_slot: MakeSlot, tmp_path: Path) -> None:
    slot, _ = snapshot(state_of(filled=True), make_slot)
    final = drained(slot, tmp_path)
    manifest = json.loads((final / MANIFEST_NAME).read_text())
    manifest["files"][0]["name"] = "../slot0"
    (final / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="outside its folder"):
        read_manifest(final)


PLAIN = """
import sys
sys.modules["myriarch"] = None  # as if it were not installed: importing it fails
import torch, torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
state = {"model": {"embedding.weight": torch.zeros(256, 32)},
         "optim": {"state": {"embedding.weight": {"exp_avg": torch.zeros(256, 32)}}}}
dcp.load(state, checkpoint_id=sys.argv[1], no_dist=True)
dcp_to_torch_save(sys.argv[1], sys.argv[2])
whole = torch.load(sys.argv[2], weights_only=True)
assert torch.equal(whole["model"]["embedding.weight"], state["model"]["embedding.weight"])
torch.save((state["model"]["embedding.weight"], state["optim"]["state"]["embedding.weight"]["exp_avg"]), sys.argv[2])
"""


@pytest.mark.processes
def test_plain_pytorch_loads_what_two_workers_drained(make_fleet: Callable[..., Any], tmp_path: Path) -> None:
    fleet = make_fleet(steps=2)
    workers = fleet.launch("a", 2)
    fleet.go(fleet.ready(), [("a", 6)])
    fleet.held()
    final = tmp_path / "step-00000002"
    parts: list[tuple[Literal["shards", "finish"], tuple[int, ...]]] = [
        ("shards", (0,)),
        ("shards", (1,)),
        ("finish", ()),
    ]
    for kind, ranks in parts:
        slots = [fleet.memory.find(GroupId("a"), Rank(rank), Step(2)) for rank in ranks]
        job = DrainJob(
            kind=kind, step=Step(2), incarnation=FIRST, path=str(tmp_path / "filling"), run_hash="h",
            slot_paths=tuple(str(slot.path) for slot in slots),
            shards=tuple((GroupId("a"), Rank(rank)) for rank in ranks),
            final_path=str(final) if kind == "finish" else "",
        )  # fmt: skip
        order = ForkDrain(socket_path=fleet.socket_path, token="t", job=job, log_path=str(tmp_path / "drain.log"))
        assert fleet.zygote.end_of(fleet.zygote.fork(order)).code == 0
        result = fleet.drained.get(timeout=30)
        assert (result.error, result.job, result.token) == ("", job, "t")
        assert result.size_bytes > 0
    digests = [int(worker.all(Sealed)[-1].digest, 16) for worker in workers]
    assert verify(final).digest == to_hex(sum(digests))
    out = tmp_path / "plain.pt"
    command = [sys.executable, "-I", "-W", "ignore", "-c", PLAIN, str(final), str(out)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    weight, mean = torch.load(out, weights_only=True)
    tensors = fleet.tensors("a", 2)
    assert weight.numpy().tobytes() == tensors["model.embedding.weight"].tobytes()
    assert mean.numpy().tobytes() == tensors["optim.state.embedding.weight.exp_avg"].tobytes()
