"""What the planner's tests share: a small workload, round costs, the sizes of a real tiny model."""

from orchestration.plan.costs import Costs, EngineCosts, LearnerCosts, Workload

STEP_S, SEQUENCE_S, LENGTH, PROMPT_LENGTH = 0.01, 0.001, 20, 5
WORKLOAD = Workload(
    prompts_per_iteration=4,
    completions_per_prompt=2,
    prompt_length=PROMPT_LENGTH,
    lengths=(LENGTH,),
    max_staleness=0,
    batch_order="prompt",
    publishes_inflight=True,
    num_engines=1,
    workers_per_engine=1,
    max_sequences=64,
    kv_tokens=10**6,
    num_ranks=1,
    num_minibatches=2,
    num_epochs=1,
    max_tokens=1024,
    zero_stage=0,
    num_scoring_passes=0,
    num_graders=1,
    learner_bytes=4000,
    published_bytes=4000,
)
COSTS = Costs(
    engine=EngineCosts(step_s=STEP_S, sequence_s=SEQUENCE_S, context_token_s=0.0, prompt_token_s=0.0),
    learner=LearnerCosts(load_s=0.02, step_s=0.1, token_s=1e-3, pair_s=0.0, scoring_share=0.3),
    byte_s=1e-5,
    network_byte_s=1e-4,
    devices_per_node=8,
    publish_fixed_s=0.03,
    publishes_by_tree=False,
    iteration_s=0.005,
)
# Of a config.json.
TINY_SIZES = {
    "vocab_size": 23,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
}
