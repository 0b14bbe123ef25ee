//! Whole GGUF models of a few kilobytes: one layer, a tokenizer of four tokens.

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

/// A matrix: its name, rows, columns and how it is stored. One row is a vector.
pub type Matrix = (&'static str, usize, usize, GgmlDType);

/// The bytes of a file: width, feed-forward width, query and KV heads, and matrices whose values `fill` gives by name and number.
pub fn model(
    [width, inner, heads, kv_heads]: [u32; 4],
    matrices: &[Matrix],
    fill: impl Fn(&str, usize) -> Vec<f32>,
) -> Vec<u8> {
    let text = |text: &str| Value::String(text.into());
    let texts = |all: &[&str]| Value::Array(all.iter().map(|t| text(t)).collect());
    let metadata = [
        ("general.architecture", text("llama")),
        ("llama.embedding_length", Value::U32(width)),
        ("llama.block_count", Value::U32(1)),
        ("llama.feed_forward_length", Value::U32(inner)),
        ("llama.context_length", Value::U64(64)),
        ("llama.attention.head_count", Value::U32(heads)),
        ("llama.attention.head_count_kv", Value::U32(kv_heads)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", texts(&["a", "b", "ab", "<end>"])),
        ("tokenizer.ggml.token_type", Value::Array([1, 1, 1, 3].map(Value::U32).to_vec())),
        ("tokenizer.ggml.merges", texts(&["a b"])),
        ("tokenizer.ggml.eos_token_id", Value::U32(3)),
        ("tokenizer.chat_template", text("{% for m in messages %}{{ m.content }}{% endfor %}")),
    ];
    let tensor = |&(name, rows, columns, kind): &Matrix| {
        let name = format!("{name}.weight");
        let shape: &[usize] = if rows == 1 { &[columns] } else { &[rows, columns] };
        let tensor = Tensor::from_vec(fill(&name, rows * columns), shape, &Device::Cpu).unwrap();
        (name, QTensor::quantize(&tensor, kind).unwrap())
    };
    let tensors: Vec<_> = matrices.iter().map(tensor).collect();
    let mut bytes = std::io::Cursor::new(Vec::new());
    let metadata: Vec<_> = metadata.iter().map(|(name, value)| (*name, value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    bytes.into_inner()
}

/// The bytes of a model of eight dimensions.
pub fn tiny() -> Vec<u8> {
    use GgmlDType::{BF16, F16, F32, Q8_0};
    let matrices = [
        ("token_embd", 4, 8, F32),
        ("output_norm", 1, 8, F32),
        ("blk.0.attn_norm", 1, 8, F32),
        ("blk.0.attn_q", 8, 8, F16),
        ("blk.0.attn_k", 4, 8, BF16),
        ("blk.0.attn_v", 4, 8, F32),
        ("blk.0.attn_output", 8, 8, F32),
        ("blk.0.ffn_norm", 1, 8, F32),
        ("blk.0.ffn_gate", 32, 8, F32),
        ("blk.0.ffn_up", 32, 8, F32),
        ("blk.0.ffn_down", 8, 32, Q8_0),
    ];
    model([8, 32, 2, 1], &matrices, |_, n| (0..n).map(|i| (i % 7) as f32 / 7.0 - 0.4).collect())
}
