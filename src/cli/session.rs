//! What every command does first: read model, team and data before any device is touched.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use diffmas::agents::{AdapterSet, TeamConfig, TeamModel, check_context};
use diffmas::backbone::ModelFiles;
use diffmas::backends::ModelBackend;
use diffmas::evaluation::Checking;
use diffmas::inference::{DecodeOptions, Writing};
use diffmas::text::{Answers, ChatTemplate, PromptBuilder, Sample, Thinking, TokenizedSample, read_jsonl};
use diffmas::training::read_communication;
use diffmas::{Error, Result};
use rayon::prelude::*;

use super::fetch;
use super::options::Options;

/// Model and team, not yet on a device.
pub struct Session {
    pub options: Options,
    pub team: TeamConfig,
    pub model: ModelFiles,
    /// The folder that `--adapter` means.
    adapter: Option<PathBuf>,
    prompts: Arc<PromptBuilder>,
}

impl Session {
    /// Reads what `options` name.
    pub fn open(options: Options) -> Result<Self> {
        let name = Options::required(&options.model, "model")?;
        let team = options.team()?;
        options.backend()?;
        if options.batch_size == Some(0) {
            return Err(Error::invalid("batch_size must be at least 1"));
        }
        let offline = options.offline.unwrap_or(false);
        let model = ModelFiles::open(&fetch::model(name, offline)?)?;
        let adapter = options.adapter.as_deref().map(|a| fetch::adapter(a, offline)).transpose()?;
        let thinking = options.think.unwrap_or_default();
        let template = model.tokenizer.as_ref().and_then(|t| t.chat_template());
        if thinking != Thinking::Auto && !template.is_some_and(ChatTemplate::knows_thinking) {
            tracing::warn!("the model's chat template has no `enable_thinking`; --think changes nothing");
        }
        let c = &model.config;
        let (layers, width) = (c.num_hidden_layers, c.hidden_size);
        tracing::debug!("{}: {:?}, {layers} layers of width {width}", model.path.display(), c.family);
        let prompts = PromptBuilder::new(&team.agents, model.tokenizer.clone())?.with_thinking(thinking);
        if let Some(vectors) = team.vectors(c.num_hidden_layers) {
            vectors.check(c.num_hidden_layers)?;
        }
        Ok(Self { options, team, model, adapter, prompts: Arc::new(prompts) })
    }

    /// Reads and tokenises a data file; `answer` tokens are left room for where a line has no target.
    pub fn data(&self, path: &Path, answers: Answers, answer: usize) -> Result<Vec<TokenizedSample>> {
        let samples = read_jsonl(path, answers)?;
        // All of them before any error, so that it is that of the first line that has one.
        let all: Vec<_> = samples.par_iter().map(|s| self.tokenize(path, s, answer)).collect();
        all.into_iter().collect()
    }

    /// Tokenises one sample; `path` is named in errors.
    pub fn tokenize(&self, path: &Path, sample: &Sample, answer: usize) -> Result<TokenizedSample> {
        let c = &self.model.config;
        let tokenized = self.prompts.build(path, sample, c.vocab_size)?;
        let answer = tokenized.target.as_ref().map_or(answer, Vec::len);
        check_context(&self.team, &tokenized, answer, c.max_position_embeddings)
            .map_err(|e| Error::file(path, e))?;
        Ok(tokenized)
    }

    /// Samples that run together.
    pub fn batch_size(&self) -> usize {
        self.options.batch_size.unwrap_or(8)
    }

    /// The tokens that end an answer: those of the model's configuration and the tokenizer's end of turn.
    pub fn stop_tokens(&self) -> Vec<u32> {
        let mut stop = self.model.config.eos_token_ids.clone();
        stop.extend(self.model.tokenizer.as_ref().map(|t| t.end_of_turn()));
        stop
    }

    /// The team on a device, without values for what it learns.
    pub fn team_model<B: ModelBackend>(&self, device: &B::Device) -> Result<TeamModel<B>> {
        let clock = Instant::now();
        let backbone = self.model.load(device)?;
        tracing::debug!("weights loaded in {:.2} s", clock.elapsed().as_secs_f64());
        Ok(TeamModel::new(self.team.clone(), backbone, self.options.seed.unwrap_or(42)))
    }

    /// How upstream agents write, on the channel `text`.
    pub fn writing(&self, options: DecodeOptions) -> Writing {
        Writing { prompts: self.prompts.clone(), options }
    }

    /// The same, always with the best token.
    pub fn greedy_writing(&self) -> Writing {
        self.writing(DecodeOptions { stop_tokens: self.stop_tokens(), ..DecodeOptions::default() })
    }

    /// How greedy answers of at most `max_new_tokens` are checked.
    pub fn checking(&self, max_new_tokens: usize) -> Checking {
        let stop_tokens = self.stop_tokens();
        let options = DecodeOptions { max_new_tokens, stop_tokens, ..DecodeOptions::default() };
        Checking { options, tokenizer: self.model.tokenizer.clone() }
    }

    /// The adapters of `--adapter`, and into `model` the communication modules beside them; or none. A folder with communication
    /// modules alone is enough for a team that learned nothing else.
    pub fn adapters<B: ModelBackend>(&self, model: &mut TeamModel<B>) -> Result<AdapterSet<B>> {
        let Some(dir) = &self.adapter else { return Ok(AdapterSet::none()) };
        let needed = !model.modules().is_empty();
        if needed {
            let beside = dir.parent().unwrap_or(Path::new("."));
            let mut found = None;
            for folder in [dir.as_path(), beside] {
                found = read_communication(folder, model)?;
                if found.is_some() {
                    break;
                }
            }
            let modules = found.ok_or_else(|| {
                Error::file(
                    dir,
                    "this team needs communication.safetensors (its channel or learned feed) in this folder or the one above",
                )
            })?;
            *model = model.clone().with_modules(modules);
        }
        let alone = needed && !AdapterSet::<B>::is_in(dir, &self.team);
        if alone {
            return Ok(AdapterSet::none());
        }
        let adapters = AdapterSet::read(dir, self.options.adapter_scope, &self.team, &model.backbone)?;
        for adapter in adapters.adapters.values() {
            self.compare_base(dir, adapter.config.base_model_name_or_path.as_deref());
        }
        Ok(adapters)
    }

    /// Warns where an adapter says that it was trained on a model of another name. Its shapes fit, and folders are renamed and copied,
    /// so that this need not be a mistake.
    fn compare_base(&self, adapter: &Path, base: Option<&str>) {
        let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().to_lowercase());
        let model = self.model.path.to_string_lossy().to_lowercase();
        let (Some(base), Some(name)) = (base, base.and_then(|base| last(Path::new(base)))) else { return };
        let known = last(&self.model.path).is_some_and(|model| name.contains(&model));
        if !known && !model.contains(&name) {
            tracing::warn!(
                "{}: the adapter was trained on `{base}`, not on {}; answers may make no sense",
                adapter.display(),
                self.model.path.display()
            );
        }
    }

    /// The team as `--adapter` left it, for running and scoring.
    pub fn trained_team<B: ModelBackend>(&self, device: &B::Device) -> Result<diffmas::agents::Team<B>> {
        let mut model = self.team_model::<B>(device)?;
        let adapters = self.adapters(&mut model)?;
        if self.options.adapter.is_none() && !model.modules().is_empty() {
            tracing::warn!("without --adapter, the channel `{}` is untrained", self.team.channel);
        }
        Ok(model.bind(&adapters, &model.parameters(&adapters)))
    }
}
