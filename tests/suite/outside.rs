//! A channel from outside the library, as a program registers one: it is differentiated, trained, saved and read like the library's own.

use std::fs;
use std::path::Path;

use burn::prelude::*;
use diffmas::agents::{AdapterScope, AdapterSet, Base, Origin, TeamBatch, TeamConfig, TeamModel};
use diffmas::backbone::{ModelFiles, ParameterGroup, ParameterSpec, Parameters, Precision};
use diffmas::backends::{Job, ModelBackend};
use diffmas::communication::*;
use diffmas::evaluation::Control;
use diffmas::text::TokenizedSample;
use diffmas::training::{TrainConfig, Trainer};
use serde::{Deserialize, Serialize};

use crate::common::{Case, batch, folder, json, losses, on_backend, same_gradients, samples, slopes};

/// The last positions of a rollout. Everything else (joining, recomputation, controls, checkpoints) the library does.
#[derive(Debug)]
pub struct Window(usize);

/// The table `[channel.window]`.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WindowSettings {
    positions: usize,
}

impl ChannelType for Window {
    const NAME: &'static str = "window";
    const ABOUT: &'static str = "The last positions of a thought.";
    const SEGMENTS: bool = true;
    type Settings = WindowSettings;

    fn build<B: ModelBackend>(settings: WindowSettings, _sizes: &TeamSizes) -> ChannelPair<B> {
        ChannelPair::new(Self(settings.positions))
    }
}

impl<B: ModelBackend> Channel<B> for Window {
    /// What learns, by name; here one number.
    fn parameters(&self, _sizes: &TeamSizes) -> Vec<(ParameterSpec, Initializer)> {
        vec![(ParameterSpec::new("window.gain", [1, 1], ParameterGroup::CHANNEL), Initializer::Full(1.0))]
    }

    /// The form of a message, known before any tensor is.
    fn layout(&self, rollout: &RolloutLayout) -> MessageLayout {
        let mut segment = rollout.segment();
        let from = segment.positions.len.saturating_sub(self.0);
        segment.positions = segment.positions.slice(from, segment.positions.len);
        segment.prompt_len = segment.prompt_len.saturating_sub(from);
        MessageLayout { segment: Some(segment), vectors: None }
    }

    /// The message itself. What a reader does with it is the trace's way: it attends to the keys and values.
    fn send(
        &self,
        parameters: &Parameters<B>,
        rollout: &Rollout<B>,
        _trace: &ReceivedMessages<B>,
    ) -> Message<B> {
        let mut segment = rollout.segment();
        let from = segment.kv.len().saturating_sub(self.0);
        segment.kv = segment.kv.slice(from, segment.kv.len());
        segment.prompt_len = segment.prompt_len.saturating_sub(from);
        let gain: Tensor<B, 4> = parameters.get("window.gain").clone().unsqueeze();
        for block in &mut segment.kv.layers {
            block.value = block.value.clone() * gain.clone();
        }
        Message { sender: rollout.sender, segment: Some(segment), vectors: None }
    }
}

/// The team of the example `custom_channel`, with `more` lines in the channel's table.
fn window_team(dir: &Path, more: &str) -> diffmas::Result<TeamConfig> {
    register::<Window>().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/custom_channel.toml");
    let text = fs::read_to_string(file).unwrap().replace("positions = 2\n", more);
    let path = dir.join("team.toml");
    fs::write(&path, text).unwrap();
    TeamConfig::read(&path)
}

struct Windows;

impl Job for Windows {
    type Output = ();

    fn run<B: ModelBackend>(self, device: B::Device) {
        let backbone = ModelFiles::open(&folder("tiny-qwen3").join("model"))
            .unwrap()
            .load::<B>(&device, Precision::default())
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let team = window_team(dir.path(), "positions = 2\n").unwrap();
        let model = TeamModel::new(team, AdapterSet::none(), backbone);
        let input = json("tiny-qwen3", "input.json");
        let mut sample = samples(&input).remove(0);
        sample.prompts.remove(0);
        let batch = TeamBatch::new(&[&sample]);
        let p = model.init(0);
        assert_eq!(model.bind(&p).roll_out_all(&batch).positions(0), 4);
        // It is differentiated like any other channel.
        let case = Case { model: &model, batch: &batch, through: &[true; 3], lambda: 0.0 };
        let got = case.recomputed(&p).gradients;
        same_gradients(&got, &case.end_to_end(&p).1, 1e-4, "window");
        slopes(|p| case.loss(p), &p, &got, 1e-2, 2e-3, "window");
        assert!(got.get("window.gain").clone().into_scalar().elem::<f64>() != 0.0);
        self.saved_and_read(model, &[sample], dir.path());
    }
}

impl Windows {
    /// What a channel from outside learned is read again, with its table, by the team that wrote it and no other.
    fn saved_and_read<B: ModelBackend>(&self, model: TeamModel<B>, samples: &[TokenizedSample], dir: &Path) {
        let backbone = model.backbone.clone();
        let base = Base::new("tiny".into(), "0".repeat(64), &backbone.config, AdapterScope::Shared);
        let config = TrainConfig { learning_rate: 0.1, ..TrainConfig::default() };
        let parameters = model.init(0);
        let mut trainer = Trainer::new(config, model, parameters).unwrap().with_base(base);
        (0..3).for_each(|_| drop(trainer.update(&[batch(samples)], 0.1)));
        let gain = trainer.parameters().get("window.gain").clone().into_scalar().elem::<f64>();
        assert!((gain - 1.0).abs() > 0.05, "{gain}");
        trainer.write(dir).unwrap();
        let team = Origin::read(dir).unwrap().unwrap().team;
        assert_eq!(team, trainer.model().layout.config);
        assert!(
            fs::read_to_string(dir.join("team.toml")).unwrap().contains("[channel.window]\npositions = 2")
        );
        let read = |team: TeamConfig| {
            let (model, parameters) = TeamModel::open(dir, None, team, backbone.clone())?;
            Ok(model.bind(&parameters))
        };
        let own = losses(&trainer.team(), samples, 1, &Control::Real);
        assert_eq!(losses(&read(team).unwrap(), samples, 1, &Control::Real), own);
        let wider = tempfile::tempdir().unwrap();
        let wider = window_team(wider.path(), "positions = 3\n").unwrap();
        let origin = Origin::read(dir).unwrap().unwrap();
        let differences = origin.differences(&wider);
        assert_eq!(differences.len(), 1, "{differences:?}");
        assert_eq!(differences[0].1, "`channel.window.positions` is 3, but the adapter learned with 2");
        let refused: diffmas::Error = read(wider).err().unwrap();
        assert!(refused.to_string().contains("their `channel` is"), "{refused}");
    }
}

#[test]
fn a_wrong_key_in_the_table_of_a_channel_from_outside_names_file_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |more: &str| window_team(dir.path(), more).unwrap_err().to_string();
    let path = dir.path().join("team.toml").display().to_string();
    let error = refused("position = 2\n");
    assert_eq!(
        error,
        format!(
            "{path}, line 4: unknown key `position`; did you mean `positions`? (known here: `positions`)"
        )
    );
    let error = refused("positions = \"two\"\n");
    assert!(error.starts_with(&format!("{path}, line 4: invalid type: string")), "{error}");
    let error = refused("positions = 2\n[channel.zero]\n");
    assert!(error.contains("a team has one channel"), "{error}");
}

#[test]
fn a_channel_from_outside_the_library_is_trained_like_its_own() {
    on_backend(Windows);
}
