"""The receiving half of a publish, run inside vLLM's workers behind vLLM's own weight-transfer interface.

vLLM imports this module in every worker because it is named as `worker_extension_cls`; importing it registers the
backend. Buffers come in, `model.load_weights` takes them, and a digest a parameter group goes back to the caller.
"""

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

from rollout.engines.orphans import end_with_owner
from rollout.engines.vllm_versions import NoTrainerHalf
from rollout.engines.worker_calls import group_from
from transfer.communicator import join
from transfer.transport import Rendezvous, Transfer, Transport
from transfer.wire import BufferPool, ParameterGroup, digest, fits_in_flight, unpack

BACKEND = "softgate"
WORKER_EXTENSION = "rollout.engines.receiver.PublishExtension"


@dataclass
class ReceiverInitInfo(WeightTransferInitInfo):
    """The address to meet at, and the rank of the engine's first worker in the group."""

    rendezvous: dict[str, Any]  # fields of a Rendezvous
    rank_offset: int  # 1 + engine index * workers of an engine


@dataclass
class ReceiverUpdateInfo(WeightTransferUpdateInfo):
    """Announcement of an update: its parameter groups in wire order."""

    groups: list[dict[str, Any]]  # groups as worker_calls.py describes them
    verify: bool  # whether digests are computed


class BroadcastReceiver(NoTrainerHalf, WeightTransferEngine[ReceiverInitInfo, ReceiverUpdateInfo]):
    """Receives one buffer a parameter group over the transport and loads it through vLLM's layerwise reload."""

    init_info_cls = ReceiverInitInfo
    update_info_cls = ReceiverUpdateInfo

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._transport: Transport | None = None
        self._buffers = BufferPool(self._device())
        # elements loaded of modules that a whole update fills in part, being padded; None before the first update
        self._filled_in_part: dict[str, int] | None = None
        self.digests: dict[str, str] = {}
        end_with_owner()

    def init_transfer_engine(self, init_info: ReceiverInitInfo) -> None:
        self.shutdown()
        rank = init_info.rank_offset + self.parallel_config.rank
        self._transport = join(Rendezvous(**init_info.rendezvous), rank=rank, device=self._device())
        self._filled_in_part = None

    def start_weight_update(self) -> None:
        self.digests = {}
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # vLLM's own ends with torch.accelerator.synchronize(), which a CPU does not have; broadcast() has waited.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: ReceiverUpdateInfo) -> None:
        if self._transport is None:
            raise RuntimeError(
                "weights arrived before init_weight_transfer_engine: the engine has not joined the transport"
            )
        # One call for all groups: vLLM walks the whole model at the start of each.
        with self._transport.closed_on_failure():
            self.model.load_weights(self._arriving(self._transport, update_info))

    def _arriving(self, transport: Transport, update_info: ReceiverUpdateInfo) -> Iterator[tuple[str, torch.Tensor]]:
        """Checkpoint names and tensors in wire order; waits for a group when its first tensor is asked for."""
        waiting = deque(group_from(described) for described in update_info.groups)
        in_flight: deque[tuple[ParameterGroup, Transfer]] = deque()
        while waiting or in_flight:
            # The next groups travel while one is loaded. Each has a buffer of its own: vLLM may hold on to what it was
            # given until a whole module has arrived.
            while waiting and fits_in_flight(waiting[0], [group for group, _ in in_flight]):
                following = waiting.popleft()
                in_flight.append((following, transport.start(self._buffers.take(following))))
            group, transfer = in_flight.popleft()
            transfer.wait()
            if update_info.verify:
                self.digests[group.label] = digest(transfer.buffer)
            names = [meta.name for meta in group.parameters]
            yield from zip(names, unpack(group, transfer.buffer), strict=True)

    def finish_weight_update(self) -> None:
        self._refuse_torn_modules()
        with _quiet_about_untouched_modules():
            finalize_layerwise_reload(self.model, self.model_config)
        self._refresh_tied_lm_head()

    def _refuse_torn_modules(self) -> None:
        """Raises RuntimeError where a module got less than in the first update of a connection, which has all weights.

        vLLM would fill up what is missing of a module with whatever its memory holds. A module may get nothing.
        """
        filled = {}
        for name, module in self.model.named_modules():
            info = get_layerwise_info(module)
            if info.load_numel_total is not None and 0 < info.load_numel < info.load_numel_total:
                filled[name] = info.load_numel
        if self._filled_in_part is None:
            self._filled_in_part = filled
        torn = [name for name, num_loaded in filled.items() if self._filled_in_part.get(name) != num_loaded]
        if torn:
            raise RuntimeError(
                f"{', '.join(torn)}: the update has only a part of what vLLM keeps as one module; adapt its other "
                f"parts too (learner.lora.target_modules)"
            )

    def shutdown(self) -> None:
        if self._transport is not None:
            self._transport.close()
        self._transport = None

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.device.type == "cpu" else torch.device("cuda", torch.cuda.current_device())

    def _refresh_tied_lm_head(self) -> None:
        # vLLM on CPU multiplies by a packed copy of each linear weight. With tied embeddings no checkpoint tensor is
        # named lm_head, so its copy would keep the old weights and every logprob would drift, silently.
        lm_head = getattr(self.model, "lm_head", None)
        tied = getattr(self.model_config.hf_config, "tie_word_embeddings", False)
        if self.device.type == "cpu" and tied and lm_head is not None:
            lm_head.quant_method.process_weights_after_loading(lm_head)


@contextmanager
def _quiet_about_untouched_modules() -> Iterator[None]:
    """vLLM warns of each module that an update leaves as it is; here that is meant."""
    reload_logger = logging.getLogger(get_layerwise_info.__module__)

    def says_something_else(record: logging.LogRecord) -> bool:
        return "Failed to load weights" not in str(record.msg)

    reload_logger.addFilter(says_something_else)
    try:
        yield
    finally:
        reload_logger.removeFilter(says_something_else)


class PublishExtension:
    """Mixed into vLLM's worker class: what an engine may ask its workers about the last publish."""

    weight_transfer_engine: BroadcastReceiver

    def publish_digests(self) -> dict[str, str]:
        """Digest of the bytes received, by parameter group label; empty where the last publish was not verified."""
        return self.weight_transfer_engine.digests


WeightTransferEngineFactory.register_engine(BACKEND, BroadcastReceiver)
