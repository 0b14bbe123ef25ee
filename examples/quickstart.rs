//! A team of two answers a question:
//! `cargo run --release --example quickstart -- MODEL_FOLDER "What is the capital of France?"`

use std::ops::ControlFlow;
use std::process::ExitCode;

use diffmas::agents::{AdapterSet, AgentConfig, PromptBuilder, TeamBatch, TeamConfig, TeamModel};
use diffmas::backbone::{ModelFiles, Precision};
use diffmas::backends::{BackendKind, Job, ModelBackend};
use diffmas::inference::{DecodeOptions, decode};
use diffmas::text::Sample;
use diffmas::{Error, Result};

/// The planner thinks for 8 latent steps; the solver reads the keys and values of its rollouts and answers.
pub fn team() -> TeamConfig {
    let agent = |name: &str, task: &str| AgentConfig {
        user: Some(format!("Question: {{{{ question }}}}\n{task}")),
        ..AgentConfig::named(name)
    };
    let agents = vec![agent("planner", "Plan how to find the answer."), agent("solver", "Answer briefly.")];
    TeamConfig { latent_steps: 8, agents, ..TeamConfig::default() }
}

/// Lets the team answer `question` on the default backend of this build.
pub fn ask(model: &str, question: &str) -> Result<String> {
    let job = Ask { model: ModelFiles::open(model.as_ref())?, question };
    BackendKind::default_kind().and_then(|backend| backend.run(None, job)).map_err(Error::invalid)?
}

struct Ask<'a> {
    model: ModelFiles,
    question: &'a str,
}

impl Job for Ask<'_> {
    type Output = Result<String>;

    fn run<B: ModelBackend>(self, device: B::Device) -> Result<String> {
        // 1. Each agent's prompt as token ids; a batch of one row.
        let team = team();
        let Some(tokenizer) = self.model.tokenizer.clone() else {
            return Err(Error::file(&self.model.path, "the model has no tokenizer"));
        };
        let prompts = PromptBuilder::new(&team.agents, Some(tokenizer.clone()))?;
        let (question, vocab) = (Sample::question(self.question), self.model.config.vocab_size);
        let batch = TeamBatch::new(&[&prompts.build("question".as_ref(), &question, vocab)?]);

        // 2. The team on a device. `TeamModel::open` in place of `new` and `init` gives it what it learned.
        let model =
            TeamModel::new(team, AdapterSet::none(), self.model.load::<B>(&device, Precision::default())?);
        let team = model.bind(&model.init(0));

        // 3. The planner thinks: no token is sampled, its keys and values are the message.
        let received = team.roll_out_all(&batch);

        // 4. The solver reads them and answers.
        let stop_tokens = vec![tokenizer.end_of_turn()];
        let options = DecodeOptions { max_new_tokens: 64, stop_tokens, ..DecodeOptions::default() };
        let more = |_, _| ControlFlow::Continue(());
        let answers =
            decode(team.answering(), &batch.prompts[1], &team.read(&received), &options, &[0], more)?;
        tokenizer.decode(&answers[0].token_ids)
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let answer = match &args[..] {
        [_, model, question] => ask(model, question),
        _ => Err(Error::invalid("usage: quickstart MODEL_FOLDER QUESTION")),
    };
    match answer {
        Ok(text) => println!("{}", text.trim()),
        Err(e) => {
            eprintln!("error: {e}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
