//! What every command does first: read model, team and data before any device is touched.

use std::path::Path;

use diffmas::agents::{AdapterSet, TeamConfig, TeamModel, check_context};
use diffmas::backbone::ModelFiles;
use diffmas::backends::ModelBackend;
use diffmas::text::{Answers, PromptBuilder, Sample, TokenizedSample, read_jsonl};
use diffmas::training::{Parameters, read_feed};
use diffmas::{Error, Result};

use super::fetch;
use super::options::Options;

/// Model and team, not yet on a device.
pub struct Session {
    pub options: Options,
    pub team: TeamConfig,
    pub model: ModelFiles,
    prompts: PromptBuilder,
}

impl Session {
    /// Reads what `options` name.
    pub fn open(options: Options) -> Result<Self> {
        let name = Options::required(&options.model, "model")?;
        let team = options.team()?;
        options.backend()?;
        let model = ModelFiles::open(&fetch::resolve(name, options.offline.unwrap_or(false))?)?;
        let prompts = PromptBuilder::new(&team.agents, model.tokenizer.clone())?;
        Ok(Self { options, team, model, prompts })
    }

    /// Reads and tokenises a data file; `answer` tokens are left room for where a line has no target.
    pub fn data(&self, path: &Path, answers: Answers, answer: usize) -> Result<Vec<TokenizedSample>> {
        read_jsonl(path, answers)?.iter().map(|s| self.tokenize(path, s, answer)).collect()
    }

    /// Tokenises one sample; `path` is named in errors.
    pub fn tokenize(&self, path: &Path, sample: &Sample, answer: usize) -> Result<TokenizedSample> {
        let c = &self.model.config;
        let tokenized = self.prompts.build(path, sample, c.vocab_size)?;
        let latent: usize = (0..self.team.agents.len()).map(|j| self.team.steps(j)).sum();
        let answer = tokenized.target.as_ref().map_or(answer, Vec::len);
        check_context(&tokenized, latent, answer, c.max_position_embeddings)
            .map_err(|e| Error::file(path, e))?;
        Ok(tokenized)
    }

    /// The tokens that end an answer: those of the model's configuration and the tokenizer's end of turn.
    pub fn stop_tokens(&self) -> Vec<u32> {
        let mut stop = self.model.config.eos_token_ids.clone();
        stop.extend(self.model.tokenizer.as_ref().map(|t| t.end_of_turn()));
        stop
    }

    /// The team on a device, without values for what it learns.
    pub fn team_model<B: ModelBackend>(&self, device: &B::Device) -> Result<TeamModel<B>> {
        Ok(TeamModel::new(self.team.clone(), self.model.load(device)?))
    }

    /// The adapters of `--adapter` and the learned feed beside them, or none.
    pub fn adapters<B: ModelBackend>(&self, model: &mut TeamModel<B>) -> Result<AdapterSet<B>> {
        let Some(dir) = &self.options.adapter else { return Ok(AdapterSet::none()) };
        if model.feed.learned.is_some() {
            let beside = dir.parent().unwrap_or(Path::new("."));
            let found =
                [dir.as_path(), beside].iter().find_map(|d| read_feed(d, &model.backbone).transpose());
            model.feed.learned = Some(found.ok_or_else(|| {
                Error::file(
                    dir,
                    "feed = \"learned\" needs communication.safetensors in this folder or the one above",
                )
            })??);
        }
        AdapterSet::read(dir, self.options.adapter_scope, &self.team, &model.backbone)
    }

    /// The team as `--adapter` left it, for running and scoring.
    pub fn trained_team<B: ModelBackend>(&self, device: &B::Device) -> Result<diffmas::agents::Team<B>> {
        let mut model = self.team_model::<B>(device)?;
        let adapters = self.adapters(&mut model)?;
        let parameters: Parameters<B> = model.parameters(&adapters);
        Ok(model.bind(&adapters, &parameters))
    }
}
