//! A whole GGUF model of a few kilobytes: one layer, eight dimensions, a tokenizer.

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

/// The bytes of the file.
pub fn tiny() -> Vec<u8> {
    let text = |text: &str| Value::String(text.into());
    let texts = |all: &[&str]| Value::Array(all.iter().map(|t| text(t)).collect());
    let metadata = [
        ("general.architecture", text("llama")),
        ("llama.embedding_length", Value::U32(8)),
        ("llama.block_count", Value::U32(1)),
        ("llama.feed_forward_length", Value::U32(32)),
        ("llama.context_length", Value::U64(64)),
        ("llama.attention.head_count", Value::U32(2)),
        ("llama.attention.head_count_kv", Value::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", texts(&["a", "b", "ab", "<end>"])),
        ("tokenizer.ggml.token_type", Value::Array([1, 1, 1, 3].map(Value::U32).to_vec())),
        ("tokenizer.ggml.merges", texts(&["a b"])),
        ("tokenizer.ggml.eos_token_id", Value::U32(3)),
        ("tokenizer.chat_template", text("{% for m in messages %}{{ m.content }}{% endfor %}")),
    ];
    let tensor = |rows: usize, columns: usize, kind: GgmlDType| {
        let values: Vec<f32> = (0..rows * columns).map(|i| (i % 7) as f32 / 7.0 - 0.4).collect();
        let shape: &[usize] = if rows == 1 { &[columns] } else { &[rows, columns] };
        QTensor::quantize(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap(), kind).unwrap()
    };
    use GgmlDType::{BF16, F16, F32, Q8_0};
    let tensors = [
        ("token_embd.weight", tensor(4, 8, F32)),
        ("output_norm.weight", tensor(1, 8, F32)),
        ("blk.0.attn_norm.weight", tensor(1, 8, F32)),
        ("blk.0.attn_q.weight", tensor(8, 8, F16)),
        ("blk.0.attn_k.weight", tensor(4, 8, BF16)),
        ("blk.0.attn_v.weight", tensor(4, 8, F32)),
        ("blk.0.attn_output.weight", tensor(8, 8, F32)),
        ("blk.0.ffn_norm.weight", tensor(1, 8, F32)),
        ("blk.0.ffn_gate.weight", tensor(32, 8, F32)),
        ("blk.0.ffn_up.weight", tensor(32, 8, F32)),
        ("blk.0.ffn_down.weight", tensor(8, 32, Q8_0)),
    ];
    let mut bytes = std::io::Cursor::new(Vec::new());
    let metadata: Vec<_> = metadata.iter().map(|(name, value)| (*name, value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
    bytes.into_inner()
}
