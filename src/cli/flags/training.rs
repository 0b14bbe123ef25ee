//! How to train.

use clap::Args;
use diffmas::training::{
    Curriculum, Decay, DecayType, LrSchedulerType, MemorySize, PhasePreset, Recompute, Teacher, TraceGradient,
};
use serde::Serialize;

use super::{number, offered, offering, one_of};

/// How to train; names and defaults as in `transformers.TrainingArguments` where it has them.
#[derive(Clone, Debug, Default, Args, Serialize)]
#[command(next_help_heading = "Training")]
pub struct TrainingFlags {
    /// Peak learning rate [5e-5]
    #[arg(long, value_parser = number, allow_negative_numbers = true)]
    pub learning_rate: Option<f64>,
    /// Micro-batches per update [1]
    #[arg(long, value_name = "N")]
    pub gradient_accumulation_steps: Option<usize>,
    /// Updates; overrides --num-train-epochs
    #[arg(long, value_name = "N")]
    pub max_steps: Option<usize>,
    /// Passes over the data [3]
    #[arg(long, value_name = "N", value_parser = number, allow_negative_numbers = true)]
    pub num_train_epochs: Option<f64>,
    /// Updates of linear warm-up from 0 [0]
    #[arg(long, value_name = "N")]
    pub warmup_steps: Option<usize>,
    /// Shape of the schedule [linear]
    #[arg(long, value_parser = one_of::<LrSchedulerType>())]
    pub lr_scheduler_type: Option<LrSchedulerType>,
    /// Updates over which the rate of warmup_stable_decay falls to 0 [60 % of each phase]
    #[arg(long, value_name = "N")]
    pub num_decay_steps: Option<usize>,
    /// How it falls [linear, cosine, 1-sqrt]
    #[arg(long, value_parser = offered::<DecayType>(), hide_possible_values = true)]
    pub decay_type: Option<DecayType>,
    /// Largest global gradient norm; 0 switches clipping off [1]
    #[arg(long, value_parser = number, allow_negative_numbers = true)]
    pub max_grad_norm: Option<f64>,
    /// Decoupled weight decay [0]
    #[arg(long, value_parser = number, allow_negative_numbers = true)]
    pub weight_decay: Option<f64>,
    /// Decay of AdamW's mean of gradients [0.9]
    #[arg(long, value_name = "BETA1", value_parser = number, allow_negative_numbers = true)]
    pub adam_beta1: Option<f64>,
    /// Decay of AdamW's mean of squared gradients [0.999]
    #[arg(long, value_name = "BETA2", value_parser = number, allow_negative_numbers = true)]
    pub adam_beta2: Option<f64>,
    /// What AdamW adds to the root of that mean [1e-8]
    #[arg(long, value_name = "EPSILON", value_parser = number, allow_negative_numbers = true)]
    pub adam_epsilon: Option<f64>,
    /// What weight decay pulls on: everything; or as in transformers' Trainer, which spares biases and norms, and with them gates,
    /// embeddings and queries, and pulls the learned feed towards the identity [all, hf]
    #[arg(long, value_parser = offered::<Decay>(), hide_possible_values = true)]
    pub decay: Option<Decay>,
    /// Seed of data order and fresh adapters [42]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Updates between checkpoints [500]
    #[arg(long, value_name = "N")]
    pub save_steps: Option<usize>,
    /// Checkpoints kept [all]
    #[arg(long, value_name = "N")]
    pub save_total_limit: Option<usize>,
    /// Updates between scores of --eval-data [only before the first and after the last]
    #[arg(long, value_name = "N")]
    pub eval_steps: Option<usize>,
    /// Count right answers in --eval-data, too
    #[arg(long)]
    pub eval_accuracy: Option<bool>,
    /// How far back the gradient goes [full, detach, last:N]
    #[arg(long, value_parser = offering::<TraceGradient>(["full", "detach", "last:1"]), hide_possible_values = true)]
    pub trace_gradient: Option<TraceGradient>,
    /// Forward passes that are run again for their gradient, so that less is kept [auto: what fits in --memory-limit]
    #[arg(long, value_parser = one_of::<Recompute>())]
    pub recompute: Option<Recompute>,
    /// Read prompts layer by layer: of a layer, only what enters it is kept, and it runs again in its backward pass
    #[arg(long)]
    pub activation_checkpointing: Option<bool>,
    /// Memory for what is kept until gradients, e.g. 8GiB [half of what is free at the start]
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<MemorySize>,
    /// Updates with a loss or gradient that is not finite, in a row, after which training stops [5]
    #[arg(long, value_name = "N")]
    pub max_skipped_updates: Option<usize>,
    /// Weight of upstream agents' trajectories, the field `trajectories` of a line [0]
    #[arg(long, value_name = "LAMBDA", value_parser = number, allow_negative_numbers = true)]
    pub trajectory_weight: Option<f64>,
    /// Probability of hiding a sender's whole message from its readers [0]
    #[arg(long, value_name = "P", value_parser = number, allow_negative_numbers = true)]
    pub sender_dropout: Option<f64>,
    /// Probability of hiding a single latent position or vector [0]
    #[arg(long, value_name = "Q", value_parser = number, allow_negative_numbers = true)]
    pub position_dropout: Option<f64>,
    /// Easy samples first: by the length of the target or a field from 0 to 1 [none, length, field:NAME]
    #[arg(long, value_parser = offering::<Curriculum>(["none", "length"]), hide_possible_values = true)]
    pub curriculum: Option<Curriculum>,
    /// How difficult samples may be at the first update, from 0 to 1 [0.1]
    #[arg(long, value_name = "C0", value_parser = number, allow_negative_numbers = true)]
    pub initial_competence: Option<f64>,
    /// Updates until all samples are drawn [half of the run]
    #[arg(long, value_name = "N")]
    pub curriculum_steps: Option<usize>,
    /// Teacher of the final agent, with or without answers in the data [none]
    #[arg(long, value_parser = one_of::<Teacher>())]
    pub teacher: Option<Teacher>,
    /// Weight of the teacher on lines with an answer, from 0 to 1; it is 1 on the others [0.5]
    #[arg(long, value_name = "W", value_parser = number, allow_negative_numbers = true)]
    pub distill_weight: Option<f64>,
    /// Most tokens of the teacher's answer to a line without one [128]
    #[arg(long, value_name = "N")]
    pub teacher_tokens: Option<usize>,
    /// Training in phases; --config may have [[phases]] of its own [joint, individual-then-joint]
    #[arg(long, value_parser = offered::<PhasePreset>(), hide_possible_values = true)]
    pub phase_preset: Option<PhasePreset>,
}
