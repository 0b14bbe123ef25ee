//! The numbers of an independent implementation (PyTorch, transformers and PEFT in float64), on the backend under test.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::common::*;
use burn::prelude::*;
use diffmas::agents::{AdapterScope, TeamConfig, Transmit};
use diffmas::backbone::{BackboneConfig, KeyValues, Parameters, frobenius};
use diffmas::backends::{Job, ModelBackend};
use diffmas::communication::ReceivedMessages;
use diffmas::evaluation::{Control, evaluate};
use diffmas::inference::{DecodeOptions, decode};
use diffmas::training::{TraceGradient, TrainConfig};
use serde_json::Value;

/// A check that runs for every reference model.
trait Check {
    fn check<B: ModelBackend>(model: &str, device: &B::Device);
}

struct ForAll<C>(std::marker::PhantomData<C>);

impl<C: Check + Send> Job for ForAll<C> {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for model in MODELS {
            C::check::<B>(model, &device);
        }
    }
}

fn for_all<C: Check + Send>() {
    on_backend(ForAll::<C>(std::marker::PhantomData));
}

/// Loss and gradients of one update of the main sample.
fn gradients<B: ModelBackend>(g: &Golden<B>, trace_gradient: TraceGradient) -> (f64, Parameters<B>) {
    let config = TrainConfig { trace_gradient, ..TrainConfig::default() };
    let got = g.trainer(config).gradients(&[batch(&g.samples[..1])]);
    let (loss, gradients) = (got.loss, got.gradients);
    (loss, gradients)
}

struct FullAndDetach;

impl Check for FullAndDetach {
    fn check<B: ModelBackend>(model: &str, device: &B::Device) {
        let g = Golden::<B>::load(model, AdapterScope::Shared, |_| (), device);
        let want = g.expected["loss"].as_f64().unwrap();
        for (name, mode) in [("full", TraceGradient::Full), ("detach", TraceGradient::Last(0))] {
            let (loss, grads) = gradients(&g, mode);
            close(loss, want, want, 1e-5, &format!("{model} loss"));
            let e = &g.expected[name];
            let norm = e["lora_grad_norm"].as_f64().unwrap();
            close(grads.norm(), norm, norm, 2e-4, &format!("{model} {name} norm"));
            close_gradients(&grads, &e["lora_grads"], "default", &format!("{model} {name}"));
        }
    }
}

#[test]
fn loss_and_gradients_are_those_of_pytorch() {
    for_all::<FullAndDetach>();
}

struct Variants;

impl Check for Variants {
    fn check<B: ModelBackend>(model: &str, device: &B::Device) {
        type Change = fn(&mut TeamConfig);
        let cases: [(&str, AdapterScope, TraceGradient, Change); 4] = [
            ("transmit_latent", AdapterScope::Shared, TraceGradient::Full, |c| c.transmit = Transmit::Latent),
            ("transmit_prompt", AdapterScope::Shared, TraceGradient::Full, |c| c.transmit = Transmit::Prompt),
            ("last_1", AdapterScope::Shared, TraceGradient::Last(1), |_| ()),
            ("final_only", AdapterScope::FinalOnly, TraceGradient::Full, |_| ()),
        ];
        for (name, scope, mode, change) in cases {
            let g = Golden::<B>::load(model, scope, change, device);
            let e = &g.expected["variants"][name];
            let (loss, grads) = gradients(&g, mode);
            let want = e["loss"].as_f64().unwrap();
            close(loss, want, want, 1e-5, &format!("{model} {name} loss"));
            let norm = e["lora_grad_norm"].as_f64().unwrap();
            close(grads.norm(), norm, norm, 2e-4, &format!("{model} {name} norm"));
            close_gradients(&grads, &e["lora_grads"], "default", &format!("{model} {name}"));
            let team = g.model.bind(&g.parameters);
            let plan = team.plan(&batch(&g.samples[..1]));
            if let Some(next) = e["next_pos"].as_u64() {
                assert_eq!(u64::from(plan.answering().start[0]), next, "{model} {name} next position");
            }
            let segments = plan.agents.iter().filter_map(|a| a.message.segment.as_ref());
            let positions: usize = segments.map(|s| s.positions.len).sum();
            assert_eq!(positions as u64, e["trace_len"].as_u64().unwrap(), "{model} {name} trace length");
        }
    }
}

#[test]
fn variants_of_transmission_gradient_and_scope_are_those_of_pytorch() {
    for_all::<Variants>();
}

struct PerRole;

impl Check for PerRole {
    fn check<B: ModelBackend>(model: &str, device: &B::Device) {
        let g = Golden::<B>::load(model, AdapterScope::PerRole, |_| (), device);
        let e = &g.expected["variants"]["per_role"];
        for (role, want) in e["lora_A0"].as_object().unwrap() {
            let a = g.parameters.get(&format!("adapter.{role}.model.layers.0.self_attn.q_proj.lora_A"));
            for (got, want) in values(a).iter().zip(numbers(want)) {
                close(*got, want, 1.0, 1e-7, &format!("{model} filler of {role}"));
            }
        }
        let (loss, grads) = gradients(&g, TraceGradient::Full);
        let want = e["loss"].as_f64().unwrap();
        close(loss, want, want, 1e-5, &format!("{model} per_role loss"));
        for (role, want) in e["lora_grads"].as_object().unwrap() {
            close_gradients(&grads, want, role, &format!("{model} per_role"));
        }
    }
}

#[test]
fn each_role_s_own_adapter_has_the_gradient_of_pytorch() {
    for_all::<PerRole>();
}

struct Segments;

impl Check for Segments {
    fn check<B: ModelBackend>(model: &str, device: &B::Device) {
        let g = Golden::<B>::load(model, AdapterScope::Shared, |_| (), device);
        let b = batch(&g.samples[..1]);
        let case = Case { model: &g.model, batch: &b, through: &[true; 4], lambda: 0.0 };
        let got = case.recomputed(&g.parameters.clone());
        for (j, want) in g.expected["full"]["seg_total"].as_array().unwrap().iter().enumerate() {
            let what = format!("{model} segment {j}");
            let scale = want["norm"].as_f64().unwrap();
            close(frobenius(got.cotangents[j].as_ref().unwrap()), scale, scale, 2e-4, &what);
            let tensors = got.cotangents[j].as_ref().unwrap();
            let of = |parity: usize| -> Vec<f64> {
                tensors.iter().skip(parity).step_by(2).flat_map(values).collect()
            };
            for (part, all) in [("k", of(0)), ("v", of(1))] {
                close(norm(&all), want[part].as_f64().unwrap(), scale, 2e-4, &format!("{what} {part}"));
            }
            for (part, t) in [("k_layer0_first8", &tensors[0]), ("v_layer0_first8", &tensors[1])] {
                for (got, want) in values(t).iter().zip(numbers(&want[part])) {
                    close(*got, want, scale, 2e-4, &format!("{what} {part}"));
                }
            }
            for (l, want) in numbers(&want["per_layer"]).into_iter().enumerate() {
                let both: Vec<f64> = tensors[2 * l..2 * l + 2].iter().flat_map(values).collect();
                close(norm(&both), want, scale, 2e-4, &format!("{what} layer {l}"));
            }
            let prompt = b.prompts[j].len();
            let part = |from: usize, to: usize| -> f64 {
                norm(
                    &tensors
                        .iter()
                        .flat_map(|t| values(&t.clone().narrow(2, from, to - from)))
                        .collect::<Vec<_>>(),
                )
            };
            let n = tensors[0].dims()[2];
            close(part(0, prompt), want["prompt_part"].as_f64().unwrap(), scale, 2e-4, &what);
            close(part(prompt, n), want["latent_part"].as_f64().unwrap(), scale, 2e-4, &what);
        }
    }
}

#[test]
fn gradients_of_every_segment_are_those_of_pytorch() {
    for_all::<Segments>();
}

struct Latents;

impl Check for Latents {
    fn check<B: ModelBackend>(model: &str, device: &B::Device) {
        let g = Golden::<B>::load(model, AdapterScope::Shared, |_| (), device);
        let rho = g.expected["rho"].as_f64().unwrap();
        close(g.model.feed.rho, rho, rho, 1e-6, &format!("{model} rho"));
        for (key, team) in [("latents", g.model.bind(&g.parameters)), ("latents_adapter_off", g.bare())] {
            let b = batch(&g.samples[..1]);
            let plan = team.plan(&b);
            let mut sent = vec![None; 4];
            for (j, want) in g.expected[key].as_array().unwrap().iter().enumerate() {
                let received = team.find(j, &sent, &plan);
                let rollout = team.roll_out(&[j], &b, &plan, &[team.read(&received)]).remove(0);
                let want = want.as_array().unwrap();
                assert_eq!(rollout.latents.len(), want.len());
                for (t, (got, want)) in rollout.latents.iter().zip(want).enumerate() {
                    close_tensor(
                        &values(got),
                        &numbers(want),
                        1e-4,
                        &format!("{model} {key} agent {j} h_{t}"),
                    );
                }
                let message = team.send(&rollout, &received);
                let positions = &message.segment.as_ref().unwrap().kv.positions;
                let planned = &plan.agents[j].message.segment.as_ref().unwrap().positions;
                assert_eq!(positions, planned, "{model} plan of agent {j}");
                sent[j] = Some(message);
            }
            if key == "latents" {
                check_trace(model, &team.find(3, &sent, &plan), &g.expected["trace"]);
            }
        }
    }
}

fn check_trace<B: ModelBackend>(model: &str, received: &ReceivedMessages<B>, want: &Value) {
    let joined = KeyValues::cat(&received.segments().collect::<Vec<_>>()).unwrap();
    assert_eq!(joined.len() as u64, want["length"].as_u64().unwrap());
    for (l, block) in joined.layers.iter().enumerate() {
        for (t, key) in [(&block.key, "k_norm_per_layer"), (&block.value, "v_norm_per_layer")] {
            let want = numbers(&want[key])[l];
            close(norm(&values(t)), want, want, 1e-4, &format!("{model} {key} {l}"));
        }
    }
    let first = values(&joined.layers[0].key);
    for (got, want) in first.iter().zip(numbers(&want["k_layer0_pos0_head0_first8"])) {
        close(*got, want, 1.0, 1e-4, &format!("{model} first key"));
    }
    let last = joined.layers.last().unwrap();
    let end = |t: &Tensor<B, 4>| values(&t.clone().narrow(1, 0, 1).narrow(2, joined.len() - 1, 1));
    for (t, key) in [
        (&last.key, "k_last_layer_last_pos_head0_first8"),
        (&last.value, "v_last_layer_last_pos_head0_first8"),
    ] {
        for (got, want) in end(t).iter().zip(numbers(&want[key])) {
            close(*got, want, 1.0, 1e-4, &format!("{model} {key}"));
        }
    }
}

#[test]
fn latent_states_and_the_trace_are_those_of_pytorch() {
    for_all::<Latents>();
}

struct AdamW3;

impl Check for AdamW3 {
    fn check<B: ModelBackend>(model: &str, device: &B::Device) {
        let g = Golden::<B>::load(model, AdapterScope::Shared, |_| (), device);
        let e = &g.expected["variants"]["adamw3"];
        let b = [batch(&g.samples[..1])];
        for (key, max_grad_norm) in [("no_clip", 0.0), ("clip_1", 1.0)] {
            let want = &e[key];
            let config = TrainConfig { weight_decay: 0.01, max_grad_norm, ..TrainConfig::default() };
            let mut trainer = g.trainer(config);
            let mut losses = Vec::new();
            for want in numbers(&want["grad_norm"]) {
                let m = trainer.update(&b, 1e-3).unwrap();
                losses.push(m.loss.unwrap());
                close(m.grad_norm.unwrap(), want, want, 2e-4, &format!("{model} {key} gradient norm"));
            }
            losses.push(trainer.gradients(&b).loss);
            // How far stock float32 lands from float64 is the tolerance, with room for another order of summation.
            let f32 = &g.expected["variants"]["f32"][format!("adamw3_{key}")];
            let tolerance = (10.0 * f32["loss_max_diff"].as_f64().unwrap()).max(1e-4);
            for (got, want) in losses.iter().zip(numbers(&want["loss"])) {
                close(*got, want, 1.0, tolerance, &format!("{model} {key} loss"));
            }
            let norm = want["lora_norm"].as_f64().unwrap();
            close(trainer.parameters().norm(), norm, norm, 1e-5, &format!("{model} {key} parameters"));
            for (name, want) in want["lora"].as_object().unwrap() {
                let name = format!("adapter.default.model.{}", name.strip_suffix(".weight").unwrap());
                let got = values(trainer.parameters().get(&name));
                close_tensor(&got, &numbers(want), 1e-4, &format!("{model} {key} {name}"));
            }
        }
    }
}

#[test]
fn three_updates_of_adamw_are_those_of_pytorch() {
    for_all::<AdamW3>();
}

struct Batched;

impl Check for Batched {
    fn check<B: ModelBackend>(model: &str, device: &B::Device) {
        // Loss per row: three rows of different length together, and each alone.
        let g = Golden::<B>::load(model, AdapterScope::Shared, |_| (), device);
        let team = g.model.bind(&g.parameters);
        let together = losses(&team, &g.samples, 3, &Control::Real);
        let alone = losses(&team, &g.samples, 1, &Control::Real);
        let want = numbers(&g.expected["batch"]["row_loss_unbatched"]);
        for (row, want) in want.iter().enumerate() {
            close(together[row], alone[row], alone[row], 1e-5, &format!("{model} row {row} batched"));
            close(together[row], *want, *want, 1e-5, &format!("{model} row {row}"));
        }
        // Gradient of the mean over all target tokens, in one batch and accumulated over micro-batches.
        let trainer = g.trainer(TrainConfig::default());
        let got = trainer.gradients(&[batch(&g.samples)]);
        let (loss, grads) = (got.loss, got.gradients);
        let want = g.expected["batch"]["loss_token_mean"].as_f64().unwrap();
        close(loss, want, want, 1e-5, &format!("{model} token mean"));
        let norm = g.expected["batch"]["lora_grad_norm"].as_f64().unwrap();
        close(grads.norm(), norm, norm, 2e-4, &format!("{model} batch gradient"));
        let accumulated = trainer.gradients(&micro_batches(&g.samples, 1)).gradients;
        for (name, t) in grads.iter() {
            let (a, b) = (values(t), values(accumulated.get(name)));
            let difference: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
            close(
                crate::common::norm(&difference),
                0.0,
                crate::common::norm(&a),
                2e-4,
                &format!("{model} {name} accumulated"),
            );
        }
        // The same with padding among latent-only segments.
        let g = Golden::<B>::load(model, AdapterScope::Shared, |c| c.transmit = Transmit::Latent, device);
        let e = &g.expected["variants"]["padded_batch_variant"];
        let got = g.trainer(TrainConfig::default()).gradients(&[batch(&g.samples)]);
        let (loss, grads) = (got.loss, got.gradients);
        let want = e["loss"].as_f64().unwrap();
        close(loss, want, want, 1e-5, &format!("{model} padded loss"));
        close_gradients(&grads, &e["lora_grads"], "default", &format!("{model} padded"));
        let team = g.model.bind(&g.parameters);
        let plan = team.plan(&batch(&g.samples));
        let next: Vec<f64> = plan.answering().start.iter().map(|&p| f64::from(p)).collect();
        assert_eq!(next, numbers(&e["next_pos"]), "{model} next positions");
        let padded = losses(&team, &g.samples, 3, &Control::Real);
        for (row, (got, want)) in padded.iter().zip(numbers(&e["row_loss"])).enumerate() {
            close(*got, want, want, 1e-5, &format!("{model} padded row {row}"));
        }
    }
}

#[test]
fn three_rows_batched_equal_each_alone() {
    for_all::<Batched>();
}

struct Controls;

impl Check for Controls {
    fn check<B: ModelBackend>(model: &str, device: &B::Device) {
        let g = Golden::<B>::load(model, AdapterScope::Shared, |_| (), device);
        let team = g.model.bind(&g.parameters);
        let score = |control: &Control, samples: &[_]| {
            evaluate(&team, samples, &scoring(1, control, 0), |_| Ok(())).unwrap().loss
        };
        for (name, want) in g.expected["variants"]["nll_controls"].as_object().unwrap() {
            let want = want["loss"].as_f64().unwrap();
            close(
                score(&name.parse().unwrap(), &g.samples[..1]),
                want,
                want,
                1e-5,
                &format!("{model} {name}"),
            );
        }
        let want = g.expected["loss"].as_f64().unwrap();
        close(score(&Control::Real, &g.samples[..1]), want, want, 1e-5, &format!("{model} real"));
        let others = [Control::Shuffled, Control::Random].map(|c| score(&c, &g.samples));
        let real = score(&Control::Real, &g.samples);
        assert!(
            others.iter().all(|o| o.is_finite() && (o - real).abs() > 1e-3),
            "{model}: {others:?} against {real}"
        );
        // Adapter off, and the same without latent steps or trace.
        let bare = g.bare();
        let loss = |team: &diffmas::agents::Team<B>, control: Control| {
            evaluate(team, &g.samples[..1], &scoring(1, &control, 0), |_| Ok(())).unwrap().loss
        };
        let mut still = bare.clone();
        Arc::make_mut(&mut still.layout).config.latent_steps = 0;
        for (key, got) in [
            ("adapter_off_loss", loss(&bare, Control::Real)),
            ("adapter_off_loss_T0", loss(&still, Control::Real)),
            ("adapter_off_loss_no_trace", loss(&bare, Control::None)),
        ] {
            let want = g.expected[key].as_f64().unwrap();
            close(got, want, want, 1e-5, &format!("{model} {key}"));
        }
    }
}

#[test]
fn controls_score_as_in_pytorch() {
    for_all::<Controls>();
}

struct Greedy;

impl Check for Greedy {
    fn check<B: ModelBackend>(model: &str, device: &B::Device) {
        let g = Golden::<B>::load(model, AdapterScope::Shared, |_| (), device);
        let (on, bare) = (g.model.bind(&g.parameters), g.bare());
        let options = DecodeOptions { max_new_tokens: 16, ..DecodeOptions::default() };
        let answer = |thinking: &diffmas::agents::Team<B>, answering: &diffmas::agents::Team<B>, n: usize| {
            let b = batch(&g.samples[..n]);
            let context = thinking.read(&thinking.roll_out_all(&b));
            let sample_ids: Vec<u64> = (0..n as u64).collect();
            decode(answering.answering(), &b.prompts[3], &context, &options, &sample_ids, |_, _| {
                ControlFlow::Continue(())
            })
            .unwrap()
        };
        for (key, thinking, answering) in [
            ("trace_on_decode_on", &on, &on),
            ("trace_on_decode_off", &on, &bare),
            ("trace_off_decode_on", &bare, &on),
            ("trace_off_decode_off", &bare, &bare),
        ] {
            let e = &g.expected["greedy"][key];
            same_tokens(
                &answer(thinking, answering, 1)[0].token_ids,
                &e["ids"],
                &e["min_top2_gap"],
                model,
                key,
            );
        }
        let e = &g.expected["batch"];
        for (row, got) in answer(&on, &on, 3).iter().enumerate() {
            same_tokens(&got.token_ids, &e["greedy"][row], &e["min_top2_gap"][row], model, "batched");
        }
    }
}

/// Tokens must agree unless the best two scores were closer than f32 can tell.
#[track_caller]
fn same_tokens(got: &[u32], want: &Value, gap: &Value, model: &str, what: &str) {
    let got: Vec<f64> = got.iter().map(|&t| f64::from(t)).collect();
    if gap.as_f64().unwrap() >= 1e-3 {
        assert_eq!(got, numbers(want), "{model} {what}");
    }
}

#[test]
fn greedy_tokens_are_those_of_pytorch() {
    for_all::<Greedy>();
}

#[test]
fn both_spellings_of_the_configuration_say_the_same() {
    for model in MODELS {
        let dir = folder(model).join("model");
        let read = |name: &str| {
            let path = dir.join(name);
            BackboneConfig::from_json(&path, &std::fs::read_to_string(&path).unwrap()).unwrap()
        };
        assert_eq!(read("config.json"), read("config.legacy.json"), "{model}");
    }
}
