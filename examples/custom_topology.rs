//! Two experts think at the same time, a critic reads one of them, and a judge reads all three:
//! `cargo run --release --example custom_topology -- MODEL_FOLDER "Is a whale a fish?"`

use std::ops::ControlFlow;

use diffmas::agents::{AdapterSet, AgentConfig, PromptBuilder, TeamBatch, TeamConfig, TeamModel, Topology};
use diffmas::backbone::{ModelFiles, Precision};
use diffmas::backends::{BackendKind, Job, ModelBackend};
use diffmas::inference::{DecodeOptions, decode};
use diffmas::text::Sample;
use diffmas::{Error, Result};

/// Any order will do: agents are sorted so that each reads earlier ones, and who nobody reads is the final one.
pub fn team() -> Result<TeamConfig> {
    let agent = |name: &str, task: &str, reads: &[&str]| AgentConfig {
        user: Some(format!("Question: {{{{ question }}}}\n{task}")),
        reads: Some(reads.iter().map(|r| r.to_string()).collect()),
        ..AgentConfig::named(name)
    };
    let agents = vec![
        agent("judge", "Answer briefly.", &["biologist", "critic", "linguist"]),
        agent("biologist", "Think of what biology says.", &[]),
        agent("linguist", "Think of what the words mean.", &[]),
        agent("critic", "Look for mistakes.", &["biologist"]),
    ];
    TeamConfig { topology: Topology::Graph, latent_steps: 8, agents, ..TeamConfig::default() }.ordered()
}

/// What the team says, and who ran together: the names of each stage.
pub fn ask(model: &str, question: &str) -> Result<(String, Vec<Vec<String>>)> {
    let job = Ask { model: ModelFiles::open(model.as_ref())?, question };
    BackendKind::default_kind().and_then(|backend| backend.run(None, job)).map_err(Error::invalid)?
}

struct Ask<'a> {
    model: ModelFiles,
    question: &'a str,
}

impl Job for Ask<'_> {
    type Output = Result<(String, Vec<Vec<String>>)>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Self::Output {
        let team = team()?;
        let Some(tokenizer) = self.model.tokenizer.clone() else {
            return Err(Error::file(&self.model.path, "the model has no tokenizer"));
        };
        let prompts = PromptBuilder::new(&team.agents, Some(tokenizer.clone()))?;
        let (question, vocab) = (Sample::question(self.question), self.model.config.vocab_size);
        let sample = prompts.build("question".as_ref(), &question, vocab)?;
        let batch = TeamBatch::new(&[&sample]);
        let model =
            TeamModel::new(team, AdapterSet::none(), self.model.load::<B>(&device, Precision::default())?);
        let team = model.bind(&model.init(0));

        // The plan says who runs as one batch; segments that were built apart are moved one behind the other for their reader.
        let name = |&j: &usize| team.layout.config.agents[j].name.clone();
        let stages = team.plan(&batch).stages.iter().map(|s| s.agents.iter().map(name).collect()).collect();
        let context = team.read(&team.roll_out_all(&batch));
        let prompt = batch.prompts.last().expect("the judge has a prompt");
        let stop_tokens = vec![tokenizer.end_of_turn()];
        let options = DecodeOptions { max_new_tokens: 64, stop_tokens, ..DecodeOptions::default() };
        let more = |_, _| ControlFlow::Continue(());
        let answers = decode(team.answering(), prompt, &context, &options, &[0], more)?;
        Ok((tokenizer.decode(&answers[0].token_ids)?, stages))
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, question] = &args[..] else {
        return Err(Error::invalid("usage: custom_topology MODEL_FOLDER QUESTION"));
    };
    let (answer, stages) = ask(model, question)?;
    println!("stages: {stages:?}\n{}", answer.trim());
    Ok(())
}
