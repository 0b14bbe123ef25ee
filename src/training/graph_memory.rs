//! What the graphs of a team's stages take until their gradient, by arithmetic.

use super::Recompute;
use crate::agents::{StagePlan, TeamBatch, TeamLayout, TeamPlan};

/// Bytes that an update's micro-batch takes beside weights, what learns and the optimizer, in each mode.
///
/// Of each position, a layer keeps what its operations' gradients need: the residual stream before its two norms, queries, attended values, and the
/// two halves of the feed-forward layer; with adapters, the inputs of the projections that have one, twice more with dropout. Keys and values
/// are kept once, but those of latent steps `T·(T+1)/2` times where each step joins all earlier ones in a copy. Beside the graphs there are
/// messages with their cotangents, and the scores over the vocabulary of all texts that are learned; and the nodes of graphs themselves.
/// Encoders and cross-agent attention, which are small, are left out. What a process on the CPU takes at its peak is 7 % less to 12 % more (SmolLM2-135M,
/// T = 10 and 40, one row and four), layer by layer and in a model of 3 MB up to 22 % more or 17 % less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphMemory {
    /// With the graphs of all stages; layer by layer, where prompts are recomputed in any case, as `prompts`.
    pub never: u64,
    /// With those of latent steps.
    pub prompts: u64,
    /// With that of one stage.
    pub always: u64,
}

/// Bytes of the nodes of a layer in one pass, some thirty, with their places in the tables of burn-autodiff.
const NODES: u64 = 32 << 10;

impl GraphMemory {
    /// That of `batch` in a team of the form `layout`, where a number takes `size` bytes, keys and values of latent steps are there once if they
    /// grow `in_place`, and prompts are read layer by layer with `checkpointing`.
    pub fn new(
        layout: &TeamLayout,
        plan: &TeamPlan,
        batch: &TeamBatch,
        size: usize,
        in_place: bool,
        checkpointing: bool,
    ) -> Self {
        let arithmetic = Arithmetic { layout, plan, batch, size: size as u64, in_place, checkpointing };
        let stages: Vec<[u64; 2]> = plan.stages.iter().map(|stage| arithmetic.stage(stage)).collect();
        // Only what somebody reads waits for its gradient; anything else has it at once.
        let waits: Vec<bool> =
            (0..stages.len()).map(|stage| plan.stages.iter().any(|s| s.reads.contains(&stage))).collect();
        let own = || stages.iter().zip(&waits);
        let sum = |of: fn(&[u64; 2]) -> u64| own().filter(|(_, w)| **w).map(|(s, _)| of(s)).sum::<u64>();
        let most = |of: fn(&[u64; 2], bool) -> u64| own().map(|(s, w)| of(s, *w)).max().unwrap_or(0);
        let kept = [
            sum(|[prompts, rest]| prompts + rest)
                + most(|[prompts, rest], w| if w { 0 } else { prompts + rest }),
            sum(|[_, rest]| *rest) + most(|[prompts, rest], w| if w { *prompts } else { prompts + rest }),
            most(|[prompts, rest], _| prompts + rest),
        ];
        // A message, its cotangent, and what one reader adds to that.
        let messages = 3 * arithmetic.messages();
        let [never, prompts, always] = kept.map(|graphs| graphs + messages);
        Self { never: if checkpointing { prompts } else { never }, prompts, always }
    }

    /// The mode that recomputes least and takes at most `limit` bytes; where none does, that which takes least. With `checkpointing`, prompts are
    /// recomputed in any case.
    pub fn mode(self, limit: u64, checkpointing: bool) -> Recompute {
        match () {
            () if self.never <= limit && !checkpointing => Recompute::Never,
            () if self.prompts <= limit => Recompute::Prompts,
            () => Recompute::Always,
        }
    }
}

/// What is kept, in bytes.
struct Arithmetic<'a> {
    layout: &'a TeamLayout,
    plan: &'a TeamPlan,
    batch: &'a TeamBatch,
    /// Bytes of a number.
    size: u64,
    /// Whether keys and values of latent steps are there once.
    in_place: bool,
    /// Whether of prompts the graph of one layer is there at a time.
    checkpointing: bool,
}

impl Arithmetic<'_> {
    /// What the prompts of a stage take, and what follows them; agents with slots have nothing that follows.
    fn stage(&self, stage: &StagePlan) -> [u64; 2] {
        let (sizes, batch) = (&self.layout.sizes, self.batch);
        let vocabulary = sizes.vocab_size as u64 * self.size;
        let j = stage.agents[0];
        if j + 1 == self.layout.config.agents.len() {
            let target = batch.target.as_ref();
            let positions = batch.rows() * (batch.prompts[j].len() + target.map_or(0, |t| t.len));
            let tokens = target.map_or(0, |t| t.count() as u64);
            // Scores and their gradient, and the teacher's.
            let scores = 2 + u64::from(batch.teacher.is_some());
            return [self.prompts(j, positions) + scores * tokens * vocabulary, 0];
        }
        let rows = stage.agents.len() * batch.message_rows();
        let agents = || stage.agents.iter().map(|&j| &self.plan.agents[j]);
        let steps = agents().map(|agent| agent.steps).max().unwrap_or(0);
        let mut prompt = stage.agents.iter().map(|&j| batch.prompts[j].len()).max().unwrap_or(0);
        let texts = stage.agents.iter().filter_map(|&j| batch.trajectory(j));
        let texts: u64 =
            texts.map(|t| self.pass(j, t.batch * t.len) + 2 * t.count() as u64 * vocabulary).sum();
        if agents().any(|agent| agent.slots.is_some()) {
            prompt += steps;
            return [self.prompts(j, rows * prompt) + texts, 0];
        }
        // Copied, there are those of each step with all before it.
        let held = if self.in_place { steps } else { steps * (steps + 1) / 2 };
        let held = (rows * held) as u64 * self.key_values();
        let latent =
            (rows * steps) as u64 * (self.position(j) - self.key_values()) + held + self.nodes(steps);
        [self.prompts(j, rows * prompt), latent + texts]
    }

    /// What prompts of so many positions take; layer by layer, what stands between layers, and keys and values, with their gradients.
    fn prompts(&self, j: usize, positions: usize) -> u64 {
        let (pass, sizes) = (self.pass(j, positions), &self.layout.sizes);
        if !self.checkpointing {
            return pass;
        }
        let layers = sizes.num_hidden_layers as u64;
        let between = (layers * sizes.hidden_size as u64 * self.size + self.key_values()) * positions as u64;
        pass / layers + 2 * between
    }

    /// What a pass over `positions` takes.
    fn pass(&self, j: usize, positions: usize) -> u64 {
        positions as u64 * self.position(j) + self.nodes(1)
    }

    /// What the nodes of `passes` take.
    fn nodes(&self, passes: usize) -> u64 {
        (passes * self.layout.sizes.num_hidden_layers) as u64 * NODES
    }

    /// What a position of agent `j` takes in all layers.
    fn position(&self, j: usize) -> u64 {
        let c = &self.layout.sizes;
        let TeamLayout { config, adapters, .. } = self.layout;
        let adapter = adapters.of(config, j).map(|name| &adapters.adapters[name]);
        let names = adapter.map(|adapter| adapter.shapes()).unwrap_or_default();
        // What is dropped of the inputs of modules, and what is left.
        let dropping = adapter.filter(|adapter| adapter.config.lora_dropout > 0.0);
        let inputs =
            dropping.map_or(0, |adapter| adapter.modules.values().map(|[_, cols]| *cols as u64).sum());
        let adapted = |modules: &[&str]| {
            let has = |(name, _): &(String, _)| modules.iter().any(|module| name.contains(module));
            u64::from(names.iter().any(has))
        };
        let [d, inner] = [c.hidden_size, c.intermediate_size].map(|n| n as u64);
        let [queries, keys] = [c.num_attention_heads, c.num_key_value_heads].map(|n| (n * c.head_dim) as u64);
        let attention =
            d + 2 * queries + c.num_attention_heads as u64 + adapted(&["q_proj", "k_proj", "v_proj"]) * d;
        let norms = if c.qk_norm { queries + keys } else { 0 };
        let mlp = d + 2 * inner + adapted(&["gate_proj", "up_proj"]) * d + adapted(&["down_proj"]) * inner;
        let layers = c.num_hidden_layers as u64;
        ((attention + norms + mlp) * layers + 2 * d + 2 * inputs) * self.size + self.key_values()
    }

    /// Keys and values of a position in all layers.
    fn key_values(&self) -> u64 {
        let c = &self.layout.sizes;
        (2 * c.num_key_value_heads * c.head_dim * c.num_hidden_layers) as u64 * self.size
    }

    /// The keys and values of all messages.
    fn messages(&self) -> u64 {
        let positions = self.plan.agents.iter().filter_map(|agent| agent.message.segment.as_ref());
        let positions: usize = positions.map(|segment| segment.positions.ids.len()).sum();
        positions as u64 * self.key_values()
    }
}
