//! SentencePiece's BPE (`tokenizer.ggml.model = "llama"`), as transformers converts it: the pair of pieces that join to the piece of the highest
//! score is merged first, and what is no piece is written byte by byte.

use std::cmp::Reverse;

use candle_core::quantized::gguf_file::{Content, Value};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence};
use tokenizers::tokenizer::Tokenizer;

use super::pieces::{NORMAL, Pieces, Result, flag, token_id};

/// What stands for a space.
const SPACE: &str = "▁";

/// The tokenizer of the metadata `content` without added tokens; a text begins with the token that begins texts where the file does not say.
pub(super) fn build(content: &Content, pieces: &Pieces<'_>) -> Result<(Tokenizer, bool)> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores: Option<Vec<f32>> = match content.metadata.get(SCORES) {
        None => return Err(format!("field `{SCORES}` is missing; the file embeds no usable tokenizer")),
        Some(Value::Array(scores)) => scores.iter().map(|score| score.to_f32().ok()).collect(),
        Some(_) => None,
    };
    let scores = scores.filter(|scores| scores.len() == pieces.tokens.len());
    let scores =
        scores.ok_or_else(|| format!("field `{SCORES}` must be a list of a number for each token"))?;
    let vocab = pieces.vocab();
    let merges = merges(pieces, &vocab, &scores);
    let mut bpe = BPE::builder().vocab_and_merges(vocab, merges).fuse_unk(true).byte_fallback(true);
    if let Some(unknown) = token_id(content, "tokenizer.ggml.unknown_token_id") {
        let token = pieces.tokens.get(unknown as usize);
        let token = token.ok_or("field `tokenizer.ggml.unknown_token_id` names no token")?;
        bpe = bpe.unk_token(token.to_string());
    }
    let bpe = bpe.build().map_err(|e| format!("field `tokenizer.ggml.tokens`: {e}"))?;
    let replace = |from: &str, to: &str| Replace::new(from, to).map_err(|e| e.to_string());
    let prefix = flag(content, "tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let mut decoders = vec![replace(SPACE, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix {
        normalizers.push(Prepend::new(SPACE.into()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    normalizers.push(replace(" ", SPACE)?.into());
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_normalizer(Some(Sequence::new(normalizers))).map_err(|e| e.to_string())?;
    tokenizer.with_decoder(Some(DecoderSequence::new(decoders)));
    Ok((tokenizer, true))
}

/// The pairs of pieces that join to a piece, in the order in which they are merged: `generate_merges` of transformers.
fn merges(pieces: &Pieces<'_>, vocab: &Vocab, scores: &[f32]) -> Merges {
    let mut all = Vec::new();
    let normal = (0..pieces.tokens.len()).filter(|&index| pieces.kind(index) == NORMAL);
    for index in normal {
        let piece = pieces.tokens[index];
        let mut pairs: Vec<_> = piece
            .char_indices()
            .skip(1)
            .map(|(at, _)| piece.split_at(at))
            .filter_map(|(a, b)| Some(((*vocab.get(a)?, *vocab.get(b)?), (a, b))))
            .collect();
        pairs.sort_by_key(|(ids, _)| *ids);
        let length = |text: &str| text.chars().count();
        all.extend(pairs.into_iter().map(|(_, (a, b))| (scores[index], (length(a), length(b)), a, b)));
    }
    all.sort_by(|x, y| y.0.total_cmp(&x.0).then(Reverse(x.1).cmp(&Reverse(y.1))));
    all.into_iter().map(|(_, _, a, b)| (a.to_string(), b.to_string())).collect()
}
