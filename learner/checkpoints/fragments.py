"""Where a rank's optimizer keeps float32 weights and AdamW moments, at every ZeRO stage.

In: DeepSpeed's engine. Out: fragments of parameters as views of the optimizer's own tensors, to read and to fill. Only
this module knows how DeepSpeed lays out its flat tensors. Knows nothing of files.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learner.model.zero import num_elements, whole_shape

if TYPE_CHECKING:  # seconds that reading the module need not wait for
    from deepspeed import DeepSpeedEngine

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's names


@dataclass(frozen=True, kw_only=True, slots=True)
class Fragment:
    """Consecutive elements of one trained parameter that this rank's optimizer holds.

    Example: with two ranks under ZeRO-2, rank 1 may hold elements 600 to 999 of a parameter of 1,000, at 0 to 399 of
    its flat tensor: start=600, size=400, offset=0.
    """

    name: str  # name of the parameter in the model
    start: int  # place of the first element in the whole parameter, flat
    size: int  # elements
    master: Tensor  # float32 tensor of the optimizer that contains them
    offset: int  # place of the first element in master, flat

    def of(self, tensor: Tensor) -> Tensor:
        """View [size] of the elements in master, or in a moment of it."""
        return tensor.detach().view(-1).narrow(0, self.offset, self.size)


class OptimizerState:
    """Float32 weights, AdamW moments and step count of one rank."""

    def __init__(self, engine: "DeepSpeedEngine", *, zero_stage: int, rank: int, num_ranks: int) -> None:
        self._engine = engine
        self._rank = rank
        self._num_ranks = num_ranks
        self._zero_stage = zero_stage
        self._adamw: torch.optim.Optimizer = engine.basic_optimizer
        self._trained = [(name, p) for name, p in engine.module.named_parameters() if p.requires_grad]

    def shapes(self) -> dict[str, list[int]]:
        """Shape of every trained parameter, whole, by its name."""
        return {name: list(whole_shape(parameter)) for name, parameter in self._trained}

    def fragments(self) -> list[Fragment]:
        """All that this rank holds; at stage 0 every parameter as a whole."""
        found = {0: self._whole, 1: self._of_stages_1_and_2, 2: self._of_stages_1_and_2, 3: self._of_stage_3}
        return [fragment for fragment in found[self._zero_stage]() if fragment.size > 0]

    def own_fragments(self) -> list[Fragment]:
        """The fragments that this rank writes; over all ranks each element once."""
        if self._zero_stage > 0:
            return self.fragments()
        shares = (_share(fragment, self._rank, self._num_ranks) for fragment in self.fragments())
        return [share for share in shares if share.size > 0]

    def num_steps(self) -> int:
        """Optimizer steps taken; 0: there are no moments yet."""
        counts = {int(state["step"]) for state in self._adamw.state.values()}
        assert len(counts) <= 1, f"parameters have taken different numbers of steps: {counts}"
        return counts.pop() if counts else 0

    def tensors(self, fragment: Fragment) -> dict[str, Tensor]:
        """Views of the fragment's `weight` and, once there are any, moments, by name."""
        # at stage 0 a parameter that no loss depends on has no moments
        state = self._adamw.state.get(fragment.master, {})
        return {"weight": fragment.of(fragment.master)} | {
            kind: fragment.of(state[kind]) for kind in MOMENTS if kind in state
        }

    def start_moments(self, num_steps: int) -> None:
        """Gives an optimizer that has not stepped the step count, and moments of 0 to be filled."""
        for master in self._masters():
            self._adamw.state[master] = {
                "step": torch.full((), num_steps, dtype=torch.float32, device=master.device),
                **{kind: torch.zeros_like(master.detach()) for kind in MOMENTS},
            }

    def refresh_weights(self) -> None:
        """Makes the weights that the model computes with those of the filled masters. Collective over the ranks."""
        optimizer = self._engine.optimizer
        if self._zero_stage in (1, 2):
            optimizer.update_lp_params()
        elif self._zero_stage == 3:
            optimizer.checkpoint_event_prologue()
            for index in range(len(self._masters())):
                optimizer._reassign_or_swap_out_partitioned_parameters(index)
            optimizer.checkpoint_event_epilogue()

    def _masters(self) -> list[Tensor]:
        """The optimizer's float32 tensors, in its order; one may hold nothing but what fills it up."""
        if self._zero_stage == 3:  # where DeepSpeed empties AdamW's groups between steps
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return [master for group in self._adamw.param_groups for master in group["params"]]

    def _whole(self) -> Iterator[Fragment]:
        for name, parameter in self._trained:
            yield Fragment(name=name, start=0, size=parameter.numel(), master=parameter, offset=0)

    def _of_stages_1_and_2(self) -> Iterator[Fragment]:
        masters = self._masters()
        for name, parameter in self._trained:
            mapping = parameter._hp_mapping
            if mapping is not None:  # None: all of it is in other ranks' partitions
                here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
                master = masters[mapping.param_group_index]
                yield Fragment(name=name, start=here.start, size=here.numel, master=master, offset=there.start)

    def _of_stage_3(self) -> Iterator[Fragment]:
        optimizer, masters = self._engine.optimizer, self._masters()
        for name, parameter in self._trained:
            group, offset, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = length * self._rank
            size = min(length, num_elements(parameter) - start)  # a last partition is filled up
            yield Fragment(name=name, start=start, size=size, master=masters[group], offset=offset)


def _share(fragment: Fragment, rank: int, num_ranks: int) -> Fragment:
    """This rank's part of a parameter that every rank holds as a whole."""
    begin, end = (fragment.size * place // num_ranks for place in (rank, rank + 1))
    return replace(fragment, start=begin, offset=begin, size=end - begin)
