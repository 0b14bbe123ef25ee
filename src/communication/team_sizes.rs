//! What of a team shapes depend on.

use crate::backbone::BackboneConfig;

/// What of a team the shapes of messages and of what a channel learns depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamSizes {
    /// Width of a hidden state, `D`.
    pub hidden_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// KV heads, `G`.
    pub num_key_value_heads: usize,
    /// Width of a head, `d`.
    pub head_dim: usize,
    /// The agents' names in order; all but the last send.
    pub agents: Vec<String>,
}

impl TeamSizes {
    /// Those of a team of `agents` on a model of the sizes `config`.
    pub fn new(config: &BackboneConfig, agents: Vec<String>) -> Self {
        Self {
            hidden_size: config.hidden_size,
            num_hidden_layers: config.num_hidden_layers,
            num_key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            agents,
        }
    }
}
