//! Agents that read embeddings in place of a prompt.

use diffmas::agents::{AdapterScope, AgentInput, PaddedEmbeddings, Team, TeamBatch, Topology};
use diffmas::backends::{Job, ModelBackend};

use crate::common::*;

/// The batch with the embeddings of agent `j`'s prompts in place of their tokens, each number times `factor`.
fn embedded<B: ModelBackend>(team: &Team<B>, batch: &TeamBatch, j: usize, factor: f32) -> TeamBatch {
    let ids = batch.prompts[j].ids().expect("a prompt of tokens");
    let backbone = &team.roles[j];
    let rows: Vec<Vec<f32>> = ids
        .ids
        .chunks_exact(ids.len)
        .zip(ids.valid.chunks_exact(ids.len))
        .map(|(ids, valid)| {
            let real: Vec<u32> = ids.iter().zip(valid).filter(|(_, v)| **v).map(|(&id, _)| id).collect();
            backbone.embed(&real).into_data().iter::<f32>().map(|x| factor * x).collect()
        })
        .collect();
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let mut other = batch.clone();
    other.prompts[j] = PaddedEmbeddings::left(&rows, backbone.config.hidden_size).into();
    other
}

struct Embeddings;

impl Job for Embeddings {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        // Beside each other, senders of tokens and of embeddings run as one batch.
        for topology in [Topology::Sequential, Topology::Hierarchical] {
            let g = Golden::<B>::load("tiny-qwen3", AdapterScope::Shared, |c| c.topology = topology, &device);
            let team = g.model.bind(&g.parameters);
            let tokens = batch(&g.samples);
            let outcome = |batch: &TeamBatch| {
                let case = Case { model: &g.model, batch, through: &[true; 4], lambda: 0.0 };
                case.recomputed(&g.parameters)
            };
            let loss = |o: &diffmas::training::Outcome<B>| o.losses.iter().sum::<f64>();
            let want = outcome(&tokens);
            for j in [0, 1, 3] {
                let what = format!("{topology}, agent {j}");
                let got = outcome(&embedded(&team, &tokens, j, 1.0));
                close(loss(&got), loss(&want), loss(&want), 1e-6, &what);
                same_gradients(&got.gradients, &want.gradients, 1e-5, &what);
                let other = outcome(&embedded(&team, &tokens, j, -1.0));
                assert!((loss(&other) - loss(&want)).abs() > 1e-4, "{what}: other embeddings, the same loss");
            }
        }
    }
}

#[test]
fn embeddings_of_a_prompt_are_read_as_the_prompt_is() {
    on_backend(Embeddings);
}

struct Sensor;

impl Job for Sensor {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let g = Golden::<B>::load("tiny-llama", AdapterScope::Shared, |_| (), &device);
        let team = g.model.bind(&g.parameters);
        let width = g.model.layout.sizes.hidden_size;
        let state = |seed: &str, n: usize| det_fill(seed, n * width, 0.1);
        let (a, b) = (state("a", 2), state("b", 5));
        let with = |rows: &[&[f32]], samples: usize| {
            let mut batch = batch(&g.samples[..samples]);
            batch.prompts[0] = AgentInput::Embeddings(PaddedEmbeddings::left(rows, width));
            team.roll_out_all(&batch)
        };
        // As many positions as the sensor has states, and the same whatever stands beside them.
        let (alone, beside) = (with(&[&a], 1), with(&[&a, &b], 2));
        let expected = 2 + team.layout.config.latent_steps;
        assert_eq!((alone.messages[0].positions(0), beside.messages[0].positions(0)), (expected, expected));
        assert_eq!(beside.messages[0].positions(1), 5 + team.layout.config.latent_steps);
        let last_key = |received: &diffmas::communication::ReceivedMessages<B>| -> Vec<f64> {
            let key = received.messages[2].segment.as_ref().unwrap().kv.layers[1].key.clone();
            let [_, _, n, _] = key.dims();
            values(&key.slice([0..1, 0..1, n - 1..n]))
        };
        for (got, want) in last_key(&beside).iter().zip(last_key(&alone)) {
            close(*got, want, 1.0, 1e-5, "the last key of a later agent");
        }
    }
}

#[test]
fn a_sender_may_be_a_sensor() {
    on_backend(Sensor);
}
