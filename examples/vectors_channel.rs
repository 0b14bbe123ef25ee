//! Agents that send four learned vectors instead of keys and values; encoder and cross-agent attention learn, the model does not:
//! `cargo run --release --example vectors_channel -- MODEL_FOLDER DATA.jsonl`

use std::path::Path;

use diffmas::agents::{
    AdapterSet, AgentConfig, ChannelKind, PromptBuilder, TeamBatch, TeamConfig, TeamModel,
};
use diffmas::backbone::{ModelFiles, Precision};
use diffmas::backends::{BackendKind, Job, ModelBackend};
use diffmas::text::{Answers, TokenizedSample, read_samples};
use diffmas::training::{Event, TrainConfig, Trainer};
use diffmas::{Error, Result};

/// The reader knows the question's data, the solver only what the reader's vectors tell.
pub fn team() -> TeamConfig {
    let agent = |name: &str, user: &str| AgentConfig { user: Some(user.into()), ..AgentConfig::named(name) };
    TeamConfig {
        channel: ChannelKind::VECTORS.into(),
        num_vectors: 4,
        vector_dim: 64,
        latent_steps: 4,
        agents: vec![agent("reader", "{{ question }}"), agent("solver", "Answer.")],
        ..TeamConfig::default()
    }
}

/// What came of it.
pub struct Learned {
    /// The loss before each update.
    pub losses: Vec<f64>,
    /// Bytes of what the final agent reads for the first line.
    pub bytes: usize,
}

/// Trains `team` on the lines of `data`: what its channel learns, and nothing else.
pub fn learn(team: TeamConfig, model: &str, data: &str, updates: usize) -> Result<Learned> {
    let job = Learn { team, model: ModelFiles::open(model.as_ref())?, data: Path::new(data), updates };
    BackendKind::default_kind().and_then(|backend| backend.run(None, job)).map_err(Error::invalid)?
}

struct Learn<'a> {
    team: TeamConfig,
    model: ModelFiles,
    data: &'a Path,
    updates: usize,
}

impl Job for Learn<'_> {
    type Output = Result<Learned>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output {
        let prompts = PromptBuilder::new(&self.team.agents, self.model.tokenizer.clone())?;
        let lines = read_samples(&self.data.into(), Answers::Required)?;
        let build = |line| prompts.build(self.data, line, self.model.config.vocab_size);
        let samples: Vec<TokenizedSample> = lines.iter().map(build).collect::<Result<_>>()?;
        let backbone = self.model.load::<B>(&device, Precision::default())?;
        let model = TeamModel::new(self.team, AdapterSet::none(), backbone);
        let config =
            TrainConfig { max_steps: Some(self.updates), learning_rate: 1e-2, ..TrainConfig::default() };
        let parameters = model.init(1);
        let mut trainer = Trainer::new(config, model, parameters)?;
        let mut losses = Vec::new();
        trainer.train(
            &samples,
            None,
            || false,
            |_, event| {
                if let Event::Step { metrics, .. } = event {
                    losses.extend(metrics.loss);
                }
                Ok(())
            },
        )?;
        let team = trainer.team();
        let received = team.roll_out_all(&TeamBatch::new(&[&samples[0]]));
        Ok(Learned { losses, bytes: received.bytes(0, team.layout.config.message_dtype) })
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, data] = &args[..] else {
        return Err(Error::invalid("usage: vectors_channel MODEL_FOLDER DATA.jsonl"));
    };
    let Learned { losses, bytes } = learn(team(), model, data, 50)?;
    println!("a message is {bytes} bytes; losses: {losses:.3?}");
    Ok(())
}
