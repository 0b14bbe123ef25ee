//! Names and shapes of the tensors that a model of given sizes consists of, as Hugging Face names them.

use super::BackboneConfig;
use crate::checkpoint::target_modules::{LM_HEAD, PROJECTIONS};
use crate::checkpoint::{EMBEDDING, HEAD};

/// The tensors that a model of this configuration consists of, with their shapes.
pub(super) fn expected(c: &BackboneConfig) -> Vec<(String, Vec<usize>)> {
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let (d, m) = (c.hidden_size, c.intermediate_size);
    let mut all =
        vec![(EMBEDDING.to_string(), vec![c.vocab_size, d]), ("model.norm.weight".to_string(), vec![d])];
    if !c.tie_word_embeddings {
        all.push((HEAD.into(), vec![c.vocab_size, d]));
    }
    let shapes = [[q, d], [kv, d], [kv, d], [d, q], [m, d], [m, d], [d, m]];
    let weight = |(name, shape): (&str, [usize; 2])| (format!("{name}.weight"), shape.to_vec());
    let mut parts: Vec<_> = PROJECTIONS.into_iter().zip(shapes).map(weight).collect();
    parts.insert(0, ("input_layernorm.weight".into(), vec![d]));
    parts.insert(5, ("post_attention_layernorm.weight".into(), vec![d]));
    let [qkv, o, mlp] = [c.qkv_bias, c.o_bias, c.mlp_bias];
    let biased = [qkv, qkv, qkv, o, mlp, mlp, mlp];
    let bias = |((name, [out, _]), biased): ((&str, [usize; 2]), bool)| {
        biased.then(|| (format!("{name}.bias"), vec![out]))
    };
    parts.extend(PROJECTIONS.into_iter().zip(shapes).zip(biased).filter_map(bias));
    if c.qk_norm {
        parts.extend(["q", "k"].map(|part| (format!("self_attn.{part}_norm.weight"), vec![c.head_dim])));
    }
    for i in 0..c.num_hidden_layers {
        all.extend(parts.iter().map(|(name, shape)| (format!("model.layers.{i}.{name}"), shape.clone())));
    }
    all
}

impl BackboneConfig {
    /// The numbers of a model of these sizes: matrices, norms and biases; one matrix where the head is the embedding.
    pub fn num_parameters(&self) -> u64 {
        let count = |(_, shape): (String, Vec<usize>)| shape.into_iter().map(|n| n as u64).product::<u64>();
        expected(self).into_iter().map(count).sum()
    }
}

/// The layers that LoRA can convert, in the order of the model, the head last: module path, `out` and `in`.
pub(super) fn linears(c: &BackboneConfig) -> Vec<(String, [usize; 2])> {
    let projection = |(name, shape): (String, Vec<usize>)| {
        let module = name.strip_suffix(".weight").filter(|module| module.ends_with("_proj"))?;
        Some((module.to_string(), shape.try_into().ok()?))
    };
    let head = (LM_HEAD.to_string(), [c.vocab_size, c.hidden_size]);
    expected(c).into_iter().filter_map(projection).chain([head]).collect()
}
