//! Properties of traces, positions and padding, whatever the lengths.

use crate::common::*;
use burn::prelude::*;
use diffmas::agents::{AdapterScope, FeedKind, PaddedIds, TeamConfig, Transmit};
use diffmas::backbone::{KeyValues, Positions};
use diffmas::backends::{FrozenMatrix, Job, KeyValueBlock, ModelBackend};
use diffmas::evaluation::{Control, evaluate};
use diffmas::text::TokenizedSample;
use proptest::prelude::*;

/// Rows of ids below the reference models' vocabulary.
fn rows() -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec(prop::collection::vec(3u32..512, 1..9), 1..4)
}

proptest! {
    #[test]
    fn padding_adds_no_id_and_loses_none(rows in rows()) {
        let slices: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        for padded in [PaddedIds::left(&slices), PaddedIds::right(&slices)] {
            prop_assert_eq!(padded.count(), rows.iter().map(Vec::len).sum::<usize>());
            for (b, row) in rows.iter().enumerate() {
                let at = b * padded.len..(b + 1) * padded.len;
                let kept: Vec<u32> = padded.ids[at.clone()]
                    .iter()
                    .zip(&padded.valid[at])
                    .filter_map(|(&id, &v)| v.then_some(id))
                    .collect();
                prop_assert_eq!(&kept, row);
            }
        }
    }

    #[test]
    fn position_ids_count_real_tokens_and_are_never_used_twice(rows in rows(), start in 0u32..50) {
        let slices: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let padded = PaddedIds::left(&slices);
        let mut next = vec![start; rows.len()];
        let first = Positions::issue(&padded.valid, &mut next);
        let second = Positions::issue(&padded.valid, &mut next);
        let all = Positions::cat(&[&first, &second], rows.len());
        for (b, row) in rows.iter().enumerate() {
            let at = b * all.len..(b + 1) * all.len;
            let ids: Vec<u32> =
                all.ids[at.clone()].iter().zip(&all.valid[at]).filter_map(|(&id, &v)| v.then_some(id)).collect();
            let want: Vec<u32> = (start..start + 2 * row.len() as u32).collect();
            prop_assert_eq!(ids, want);
        }
    }
}

struct Realigned;

impl Job for Realigned {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        // A head of its own, and one that is the embedding.
        for name in ["tiny-qwen3", "tiny-qwen3-tied"] {
            let realign = |c: &mut TeamConfig| c.feed = FeedKind::Realign;
            let g = Golden::<B>::load(name, AdapterScope::Shared, realign, &device);
            let (backbone, d) = (&g.model.backbone, g.model.backbone.config.hidden_size);
            let table = |w: &B::Weight| w.rows(0..backbone.config.vocab_size);
            let (input, output) = (table(&backbone.embed_tokens), table(&backbone.lm_head.weight));
            let w = values(g.model.feed.realign.as_ref().unwrap());
            // (W_outᵀ·W_out + 1e-5·I)·W = W_outᵀ·W_in, each column j by the vocabulary's scores W_out·W[:, j].
            for j in 0..d {
                let column: Vec<f64> = (0..d).map(|i| w[i * d + j]).collect();
                let mut off: Vec<f64> = column.iter().map(|x| 1e-5 * x).collect();
                let mut scale = 0.0_f64;
                for (input, output) in input.chunks(d).zip(output.chunks(d)) {
                    let score: f64 = output.iter().zip(&column).map(|(o, x)| f64::from(*o) * x).sum();
                    let wanted = f64::from(input[j]);
                    scale += wanted * wanted;
                    off.iter_mut().zip(output).for_each(|(off, o)| *off += f64::from(*o) * (score - wanted));
                }
                close(norm(&off), 0.0, scale, 1e-6, &format!("{name}, column {j}"));
            }
            let norms: Vec<f64> = input
                .chunks(d)
                .map(|row| norm(&row.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()))
                .collect();
            let rho = norms.iter().sum::<f64>() / norms.len() as f64;
            close(g.model.feed.rho, rho, rho, 1e-6, "mean norm");
        }
    }
}

#[test]
fn the_realignment_matrix_solves_its_equation_over_the_whole_vocabulary() {
    on_backend(Realigned);
}

/// Cuts a cache at `cut` and joins it again.
struct CutAndJoin {
    layers: usize,
    len: usize,
    cut: usize,
}

impl Job for CutAndJoin {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let mut next = [0, 7];
        let positions = Positions::issue(&vec![true; 2 * self.len], &mut next);
        let random = || Tensor::random([2, 2, self.len, 4], burn::tensor::Distribution::Default, &device);
        let layers = (0..self.layers).map(|_| KeyValueBlock { key: random(), value: random() }).collect();
        let kv: KeyValues<B> = KeyValues { layers, positions };
        let (left, right) = (kv.slice(0, self.cut), kv.slice(self.cut, self.len));
        let joined = KeyValues::cat(&[&left, &right]).unwrap();
        assert_eq!(joined.positions, kv.positions);
        let tensors =
            |kv: &KeyValues<B>| -> Vec<f64> { kv.clone().into_tensors().iter().flat_map(values).collect() };
        assert_eq!(tensors(&joined), tensors(&kv));
        let back = KeyValues::from_tensors(kv.clone().into_tensors(), kv.positions.clone());
        assert_eq!(tensors(&back), tensors(&kv));
        assert_eq!(kv.position_bytes(), self.layers * 2 * 2 * 4 * 4);
    }
}

/// Scores random teams of rows batched and one by one.
struct BatchedEqualsAlone {
    samples: Vec<TokenizedSample>,
    steps: usize,
    transmit: Transmit,
}

impl Job for BatchedEqualsAlone {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let change = |c: &mut diffmas::agents::TeamConfig| {
            (c.latent_steps, c.transmit) = (self.steps, self.transmit);
        };
        let g = Golden::<B>::load("tiny-qwen3-tied", AdapterScope::Shared, change, &device);
        let team = g.model.bind(&g.parameters);
        for control in [Control::Real, Control::Random, Control::Zero] {
            let score = |size: usize| {
                let mut all = Vec::new();
                evaluate(&team, &self.samples, &scoring(size, &control, 3), |s| {
                    all.extend_from_slice(s);
                    Ok(())
                })
                .unwrap();
                all
            };
            for (together, alone) in score(8).into_iter().zip(score(1)) {
                close(
                    together.loss,
                    alone.loss,
                    alone.loss,
                    1e-5,
                    &format!("{control}, line {}", alone.line),
                );
                assert_eq!(together.trace_positions, alone.trace_positions);
            }
        }
        // Segments have the layout that was planned, and padding leaves everything finite.
        let b = batch(&self.samples);
        let plan = team.plan(&b);
        for (message, agent) in team.roll_out_all(&b).messages.into_iter().zip(&plan.agents) {
            let positions = message.segment.as_ref().map(|s| &s.kv.positions);
            assert_eq!(positions, agent.message.segment.as_ref().map(|s| &s.positions));
            assert!(message.into_tensors().iter().all(|t| values(t).iter().all(|x| x.is_finite())));
        }
        let got = g.trainer(Default::default()).gradients(&[b]);
        assert!(got.loss.is_finite() && got.gradients.norm().is_finite());
    }
}

/// What attention would have returned, from its weights, against what it did return.
struct WeightsMakeTheOutput;

impl Job for WeightsMakeTheOutput {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for model in MODELS {
            let g = Golden::<B>::load(model, AdapterScope::Shared, |_| (), &device);
            let mut backbone = g.model.backbone.clone();
            backbone.layers.truncate(1);
            let (layer, c) = (backbone.layers[0].clone(), backbone.config.clone());
            let padded = [PaddedIds::left(&[&[5, 6], &[7, 8, 9]]), PaddedIds::left(&[&[10, 11, 12], &[13]])];
            let mut next = vec![0; 2];
            let [first, second] = padded.clone().map(|p| Positions::issue(&p.valid, &mut next));
            let (_, past) = backbone.forward(backbone.embed(&padded[0].ids), &first, &[], None, None);
            let x = backbone.embed(&padded[1].ids);
            let (hidden, own) = backbone.forward(x.clone(), &second, &[&past], None, None);
            let weights = backbone.attention_weights(x.clone(), &second, &[&past], None).remove(0);

            let all = KeyValues::cat(&[&past, &own]).unwrap();
            let [b, h, t, n] = weights.dims();
            let (groups, d) = (c.num_key_value_heads, c.head_dim);
            let v = all.layers[0].value.clone().unsqueeze_dim::<5>(2).expand([b, groups, h / groups, n, d]);
            let out =
                B::matmul(weights.clone(), v.reshape([b, h, n, d])).swap_dims(1, 2).reshape([b * t, h * d]);
            let x = x + layer.self_attn.o_proj.forward(out);
            let normed = layer.post_attention_layernorm.forward(x.clone());
            let got = values(&backbone.norm.forward(layer.mlp.forward(normed, x, None)));
            let width = c.hidden_size;
            for (i, want) in values(&hidden).chunks_exact(width).enumerate().filter(|(i, _)| second.valid[*i])
            {
                let got = &got[i * width..(i + 1) * width];
                for (a, b) in got.iter().zip(want) {
                    close(*a, *b, 1.0, 1e-5, &format!("{model} position {i}"));
                }
            }
            for (i, row) in values(&weights).chunks_exact(n).enumerate() {
                let (b, q) = (i / (h * t), i % t);
                if second.valid[b * t + q] {
                    close(row.iter().sum(), 1.0, 1.0, 1e-5, "a row of weights");
                    let hidden = row.iter().enumerate().filter(|(j, _)| !all.positions.valid[b * n + j]);
                    assert!(hidden.map(|(_, w)| w).all(|&w| w == 0.0), "{model}: padding is attended to");
                }
            }
        }
    }
}

#[test]
fn attention_weights_make_the_output_of_attention() {
    on_backend(WeightsMakeTheOutput);
}

fn samples() -> impl Strategy<Value = Vec<TokenizedSample>> {
    let ids = || prop::collection::vec(3u32..512, 1..12);
    let sample = (prop::collection::vec(ids(), 4), ids());
    prop::collection::vec(sample, 2..4).prop_map(|rows| {
        rows.into_iter()
            .zip(1..)
            .map(|((prompts, target), line)| TokenizedSample {
                line,
                prompts,
                target: Some(target),
                ..Default::default()
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn a_cache_cut_and_joined_is_the_same(layers in 1usize..3, (len, cut) in (2usize..9).prop_flat_map(|n| (Just(n), 1..n))) {
        on_backend(CutAndJoin { layers, len, cut });
    }

    #[test]
    fn rows_score_the_same_together_and_alone(
        samples in samples(),
        steps in 1usize..4,
        transmit in prop::sample::select(vec![Transmit::All, Transmit::Latent, Transmit::Prompt]),
    ) {
        on_backend(BatchedEqualsAlone { samples, steps, transmit });
    }
}
