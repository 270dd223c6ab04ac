"""The objective of a run: the gated loss, and the terms that the configuration adds to it.

In: the [K] tensors of one micro-batch and the gate. Out: the loss to call backward on, and detached tensors for the
statistics. Every term is weighted by the loss weights, which were fixed over the global minibatch, so that losses and
gradients of micro-batches and ranks add up. Knows nothing of models, packing or ranks.
"""

from dataclasses import dataclass

from torch import Tensor

from configs.objective import ObjectiveConfig
from gates import Gate
from gates.loss import LOG_RATIO_LIMIT, GateMetrics, LossFunction
from learner.loss.objective import gated_objective
from learner.loss.terms import CorrectionWeights, correction_weights, token_kl, weighted_sum

KL_METRIC = "objective/kl"
WEIGHT_METRIC = "correction/weight_mean"
LIMITED_METRICS = {"tis": "correction/clipped_share", "mis": "correction/masked_share"}


@dataclass(frozen=True, kw_only=True, slots=True)
class LossInputs:
    """One micro-batch of K tokens of whole sequences."""

    logprobs: Tensor  # [K] learner's current, with gradient
    entropy: Tensor  # [K] nats, with gradient where the objective has an entropy bonus
    old_logprobs: Tensor  # [K] denominators of the ratios
    rollout_logprobs: Tensor  # [K] engine's
    reference_logprobs: Tensor | None  # [K] initial model's; None where the objective has no KL term
    advantages: Tensor  # [K]
    loss_weights: Tensor  # [K], 0 where not trained
    sequence_index: Tensor  # [K] int64, number of the token's sequence in the micro-batch


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveLoss:
    """The loss of one micro-batch with its parts for the statistics, which are detached."""

    loss: Tensor  # scalar
    gate: GateMetrics  # metrics of the gate; with objective.ratio=sequence, of the sequences' log-ratios
    token_log_ratio: Tensor  # [K] logprobs - old_logprobs, limited like the gate's; undefined where not trained
    token_means: dict[str, Tensor]  # [K] by metric name; the metric is the mean over trained tokens


class RunObjective:
    """The configured objective. It is fixed for the run; the gate may change from step to step."""

    def __init__(self, config: ObjectiveConfig, *, loss_function: LossFunction) -> None:
        self._config = config
        self._loss_function = loss_function

    @property
    def token_means(self) -> tuple[str, ...]:
        """Metric names in ObjectiveLoss.token_means."""
        names = [KL_METRIC] if self._config.kl_coef > 0.0 else []
        if self._config.correction != "none":
            names += [WEIGHT_METRIC, LIMITED_METRICS[self._config.correction]]
        return tuple(names)

    def __call__(self, inputs: LossInputs, gate: Gate) -> ObjectiveLoss:
        config, trained = self._config, inputs.loss_weights != 0
        correction = self._correction(inputs, trained)
        by_sequence = config.ratio == "sequence"
        gated = gated_objective(
            logprobs=inputs.logprobs,
            old_logprobs=inputs.old_logprobs,
            advantages=inputs.advantages,
            loss_weights=inputs.loss_weights,
            gate=gate,
            loss_function=self._loss_function,
            sequence_index=inputs.sequence_index if by_sequence else None,
            correction=None if correction is None else correction.weights,
        )
        loss, token_means = gated.loss, {}
        if config.kl_coef > 0.0:
            assert inputs.reference_logprobs is not None, "a KL term needs the reference's logprobs"
            kl = token_kl(inputs.logprobs, inputs.reference_logprobs, estimator=config.kl_estimator, trained=trained)
            loss = loss + config.kl_coef * weighted_sum(kl, inputs.loss_weights)
            token_means[KL_METRIC] = kl.detach()
        if config.entropy_coef > 0.0:
            loss = loss - config.entropy_coef * weighted_sum(inputs.entropy, inputs.loss_weights)
        if correction is not None:
            token_means[WEIGHT_METRIC] = correction.weights
            token_means[LIMITED_METRICS[config.correction]] = correction.limited
        token_log_ratio = gated.metrics.log_ratio
        if by_sequence:
            difference = inputs.logprobs.detach() - inputs.old_logprobs
            token_log_ratio = difference.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        return ObjectiveLoss(loss=loss, gate=gated.metrics, token_log_ratio=token_log_ratio, token_means=token_means)

    def _correction(self, inputs: LossInputs, trained: Tensor) -> CorrectionWeights | None:
        config = self._config
        if config.correction == "none":
            return None
        return correction_weights(
            inputs.old_logprobs,
            inputs.rollout_logprobs,
            kind=config.correction,
            cap=config.correction_cap,
            trained=trained,
        )
