"""The reference trainer: the decoder of `model`, AdamW, warm-up and cosine, clipping, validation.

It is an ordinary user of the session, and the example of one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from myriarch.event.actions import Fresh
from myriarch.event.ids import Step
from myriarch.train.calibration import calibrate
from myriarch.train.data import Corpus, read_corpus
from myriarch.train.model import Decoder, loss_sum_of
from myriarch.train.norm import largest_magnitude, norm_of, square_limbs
from myriarch.train.optimizer import AdamW, learning_rate_at
from myriarch.train.parallel import (
    build_decoder,
    device_mesh_of,
    gather_no_more,
    local_of,
    prepare_micro_batch,
    reset_parameters,
    zeros_beside,
)
from myriarch.train.session import Session

_LOG: Final = logging.getLogger("myriarch.worker")
"""One line for each step that counted: which samples went into it. After a rollback a step has another line."""


class NotFinite(ArithmeticError):
    """The gradient has no finite value: the run diverged."""


class FlatGradient:
    """The local shards of all gradients, in the order of their names, as one flat fp32 tensor."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters: Final = parameters
        locals_ = [local_of(parameter) for parameter in parameters]
        self.flat: Final = torch.zeros(sum(local.numel() for local in locals_), device=locals_[0].device)
        parts = torch.split(self.flat, [local.numel() for local in locals_])
        self.shards: Final = [part.view(local.shape) for part, local in zip(parts, locals_, strict=True)]

    @torch.no_grad()
    def collect(self) -> Tensor:
        """Take the gradients over, and drop them from the parameters."""
        for parameter, shard in zip(self._parameters, self.shards, strict=True):
            if parameter.grad is None:
                shard.zero_()
            else:
                shard.copy_(local_of(parameter.grad))
        self.drop()
        return self.flat

    def drop(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


class Trainer:
    """Model, data and optimizer of one worker."""

    def __init__(self, session: Session) -> None:
        run, spec = session.run, session.begin.resolved.model
        self._session: Final = session
        self._run: Final = run
        device_mesh = device_mesh_of(session.plan.mesh, device_type=session.device.type)
        fresh = isinstance(session.plan.restore, Fresh)
        self._decoder: Final[Decoder] = build_decoder(
            spec, device_mesh=device_mesh, device=session.device, seed=run.seed if fresh else None
        )
        self._named: Final[dict[str, Tensor]] = dict(sorted(self._decoder.named_parameters()))
        self._elements: Final = spec.parameters
        self._means: Final = {name: zeros_beside(tensor) for name, tensor in self._named.items()}
        self._squares: Final = {name: zeros_beside(tensor) for name, tensor in self._named.items()}
        self._gradient: Final = FlatGradient(list(self._named.values()))
        parameters, means, squares = (
            [local_of(tensor) for tensor in tensors.values()] for tensors in (self._named, self._means, self._squares)
        )
        self._optimizer: Final = AdamW(parameters, means, squares, spec=run.optimizer)
        with session.timeline.within("data_open"):
            self._corpus: Final = Corpus(
                read_corpus(run.data), context_tokens=spec.context_tokens, sequences=run.batch.sequences, seed=run.seed
            )

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, named as PyTorch's own state dicts are."""
        moments = {name: {"exp_avg": self._means[name], "exp_avg_sq": self._squares[name]} for name in self._named}
        return {"model": self._named, "optim": {"state": moments}}

    def reset(self) -> None:
        """Back to step 0."""
        with torch.no_grad():
            reset_parameters(self._decoder, seed=self._run.seed)
            for tensor in (*self._means.values(), *self._squares.values()):
                local_of(tensor).zero_()

    def train(self) -> None:
        """All steps of the run."""
        session = self._session
        session.restore(
            self.state(), merged={name: tuple(tensor.shape) for name, tensor in self._named.items()}, reset=self.reset
        )
        with session.timeline.within("warm_up"):
            calibration = (
                calibrate(
                    self._rehearse, drop_gradients=self._gradient.drop, group=session.group, device=session.device
                )
                if session.plan.calibrate
                else None
            )
        for step in session.steps(calibration=calibration):
            self._step(step)

    def _rehearse(self) -> int:
        count = self._run.batch.micro_sequences
        self._micro_batch(list(range(min(count, self._corpus.samples))), last=True)
        return count

    def _step(self, step: Step) -> None:
        session = self._session
        session.phase("data_stall", "compute")
        samples = self._corpus.samples_of(step, session.slots)
        session.phase("useful_compute", "compute")
        loss_sum = self._forward_and_backward(samples)
        merged = session.merge(
            self._gradient.collect(), loss_sum=loss_sum, tokens=len(samples) * self._decoder.spec.context_tokens
        )
        if merged is None:
            return
        session.phase("useful_compute", "optimizer")
        self._apply(step)
        _LOG.info(
            "step %d of incarnation %d: slots %d-%d, samples %s",
            step, session.plan.incarnation, session.slots.start, session.slots.stop, " ".join(map(str, samples)),
        )  # fmt: skip
        every = self._run.validate_every_steps
        if every and (step + 1) % every == 0 and session.speaks_for_all and self._corpus.held_out:
            session.phase("evaluation", "compute")
            self._validate()
        session.phase("host_sync", "optimizer")

    def _forward_and_backward(self, samples: Sequence[int]) -> float:
        """Gradients of the worker's sequences, summed; returns the sum of their losses in nats."""
        size = self._run.batch.micro_sequences
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]
        if not batches:
            # A rank without a sequence still takes part in its group's collectives, with a loss that weighs nothing.
            self._micro_batch([0], last=True, weight=0.0)
            return 0.0
        return sum(self._micro_batch(batch, last=batch is batches[-1]) for batch in batches)

    def _micro_batch(self, samples: Sequence[int], *, last: bool, weight: float = 1.0) -> float:
        prepare_micro_batch(self._decoder, last=last)
        windows = torch.from_numpy(self._corpus.windows(samples)).to(self._session.device)
        loss = loss_sum_of(self._decoder(windows[:, :-1]), windows[:, 1:])
        (loss if weight == 1.0 else loss * weight).backward()
        return float(loss.detach())

    def _apply(self, step: Step) -> None:
        spec = self._run.optimizer
        norm = self._norm()
        if spec.clip_norm is not None and norm > spec.clip_norm:
            self._gradient.flat.mul_(spec.clip_norm / norm)
        rate = learning_rate_at(step, steps=self._run.steps, optimizer=spec)
        self._optimizer.update(self._gradient.shards, step=step, learning_rate=rate)
        self._session.report(grad_norm=norm, learning_rate=rate)

    def _norm(self) -> float:
        """Of the merged gradient, the same bits in every group and layout. Raises NotFinite."""
        group = self._session.group
        maximum = group.maxima([largest_magnitude(self._gradient.flat)])[0]
        if maximum == float("inf"):
            raise NotFinite("the gradient is not finite; lower optimizer.learning_rate or lengthen its warm-up")
        limbs = square_limbs(self._gradient.flat, maximum=maximum, elements=self._elements)
        replicas = self._session.plan.mesh.dp_replicate  # each of them counted the same limbs: the division is exact
        upper, lower = (total // replicas for total in group.add(limbs))
        return norm_of((upper, lower), maximum=maximum, elements=self._elements)

    @torch.no_grad()
    def _validate(self) -> None:
        session = self._session
        loss_sum, tokens = 0.0, 0
        parts = session.group.world_size
        windows = torch.from_numpy(self._corpus.held_out_windows(session.plan.rank, parts=parts)).to(session.device)
        prepare_micro_batch(self._decoder, last=True)
        for batch in torch.split(windows, self._run.batch.micro_sequences):
            loss_sum += float(loss_sum_of(self._decoder(batch[:, :-1]), batch[:, 1:]))
            tokens += batch.shape[0] * (batch.shape[1] - 1)
        gather_no_more(self._decoder)
        rows = session.group.gather([loss_sum, float(tokens)])
        if session.plan.rank == 0:
            session.report_validation(loss_sum=sum(row[0] for row in rows), tokens=int(sum(row[1] for row in rows)))
