//! A channel that the library does not have: an agent passes on only its last positions, keys and values times a gain that learns.
//! `cargo run --release --example custom_channel -- MODEL_FOLDER "What is the capital of France?"`

use burn::prelude::*;
use diffmas::agents::{AdapterSet, AgentConfig, TeamBatch, TeamConfig, TeamModel};
use diffmas::backbone::{Backbone, ModelFiles, Parameters, Precision};
use diffmas::backends::{BackendKind, Job, ModelBackend};
use diffmas::communication::{Channel, ChannelPair, Message, MessageLayout, Thought, ThoughtLayout, Trace};
use diffmas::text::{PromptBuilder, Sample};
use diffmas::{Error, Result};

/// The last positions of a thought. Everything else (joining, recomputation, controls, checkpoints) the library does.
#[derive(Debug)]
pub struct Window(pub usize);

impl<B: ModelBackend> Channel<B> for Window {
    /// What learns, by name; here one number.
    fn parameters(&self, backbone: &Backbone<B>, _seed: u64) -> Parameters<B> {
        let gain = Tensor::ones([1, 1], &backbone.device());
        [("window.gain".to_string(), gain)].into_iter().collect()
    }

    /// The form of a message, known before any tensor is.
    fn layout(&self, thought: &ThoughtLayout) -> MessageLayout {
        let mut segment = thought.segment();
        let from = segment.positions.len.saturating_sub(self.0);
        segment.positions = segment.positions.slice(from, segment.positions.len);
        segment.prompt_len = segment.prompt_len.saturating_sub(from);
        MessageLayout { segment: Some(segment), vectors: None }
    }

    /// The message itself. What a reader does with it is the trace's way: it attends to the keys and values.
    fn send(&self, parameters: &Parameters<B>, thought: &Thought<B>, _trace: &Trace<B>) -> Message<B> {
        let mut segment = thought.segment();
        let from = segment.kv.len().saturating_sub(self.0);
        segment.kv = segment.kv.slice(from, segment.kv.len());
        segment.prompt_len = segment.prompt_len.saturating_sub(from);
        let gain: Tensor<B, 4> = parameters.get("window.gain").clone().unsqueeze();
        for block in &mut segment.kv.layers {
            block.value = block.value.clone() * gain.clone();
        }
        Message { sender: thought.sender, segment: Some(segment), vectors: None }
    }
}

/// The team's model over a window of `n` positions; `diffmas::training::Trainer` takes it as it takes any other.
pub fn team<B: ModelBackend>(backbone: Backbone<B>, n: usize) -> TeamModel<B> {
    let agent = |name: &str| AgentConfig { user: Some("{{ question }}".into()), ..AgentConfig::named(name) };
    let agents = ["planner", "critic", "solver"].map(agent).to_vec();
    let config = TeamConfig { latent_steps: 4, agents, ..TeamConfig::default() };
    TeamModel::with_channel(config, AdapterSet::none(), backbone, ChannelPair::new(Window(n)))
}

struct Positions(ModelFiles, String);

impl Job for Positions {
    type Output = Result<usize>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output {
        let model = team(self.0.load::<B>(&device, Precision::default())?, 2);
        let prompts = PromptBuilder::new(&model.layout.config.agents, self.0.tokenizer.clone())?;
        let (question, vocab) = (Sample::question(self.1), self.0.config.vocab_size);
        let sample = prompts.build("question".as_ref(), &question, vocab)?;
        let team = model.bind(&model.init(0));
        Ok(team.think_all(&TeamBatch::new(&[&sample])).positions(0))
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, question] = &args[..] else {
        return Err(Error::invalid("usage: custom_channel MODEL QUESTION"));
    };
    let job = Positions(ModelFiles::open(model.as_ref())?, question.clone());
    let n = BackendKind::default_kind().and_then(|kind| kind.run(None, job)).map_err(Error::invalid)??;
    println!("the solver reads {n} positions of the two agents before it");
    Ok(())
}
