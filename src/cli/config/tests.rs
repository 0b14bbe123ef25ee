//! Every flag is a key of a file; what wins over what.

use clap::{Arg, FromArgMatches};
use diffmas::agents::{ChannelConfig, ChannelKind, TeamConfig};
use diffmas::backbone::ParameterGroup;
use diffmas::backends::ModelBackend;
use diffmas::communication::{ChannelPair, ChannelType, TeamSizes, TraceChannel, register};
use diffmas::inference::GenerationConfig;
use diffmas::training::{LoraConfig, TraceGradient, TrainConfig};
use serde_json::{Map, Value, json};

use super::*;
use crate::cli::eval::EvalCommand;
use crate::cli::run::RunCommand;
use crate::cli::train::{TrainCommand, TrainFiles};
use crate::cli::{Cli, Command, program};

/// What is told to a command by `args`, its name first, and the content of a file, as a debugger shows it.
fn told(args: &[&str], file: &str) -> std::result::Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(&path, file).unwrap();
    let args = [&["diffmas"], args, &["--config", path.to_str().unwrap()]].concat();
    let matches = program().try_get_matches_from(args).map_err(|e| e.to_string())?;
    let config = |e: Error| e.to_string().replace(path.to_str().unwrap(), "c.toml");
    match Cli::from_arg_matches(&matches).map_err(|e| e.to_string())?.command {
        Command::Train(flags) => {
            Config::read(&*flags).and_then(|c| Ok(format!("{:#?}", TrainCommand::of(&c)?)))
        }
        Command::Run(flags) => Config::read(&*flags)
            .and_then(|c| Ok(format!("{:#?}", (RunCommand::of(&c)?, c.engine::<RunFlags>()?)))),
        Command::Eval(flags) => Config::read(&*flags)
            .and_then(|c| Ok(format!("{:#?}", (c.get::<EvalCommand>()?, c.engine::<EvalFlags>()?)))),
        _ => unreachable!("it has no --config"),
    }
    .map_err(config)
}

/// The commands that have `--config`, with their flags.
fn configured() -> Vec<(String, Vec<Arg>)> {
    let mut program = program();
    program.build();
    let all = program.get_subcommands().filter(|c| c.get_arguments().any(|a| a.get_id() == "config"));
    let flags = |c: &clap::Command| c.get_arguments().filter(|a| a.get_long().is_some()).cloned().collect();
    all.map(|c| (c.get_name().to_string(), flags(c))).collect()
}

/// Flags that are no key of a file, and why.
const NO_KEYS: [(&str, &str); 5] = [
    ("config", "it names the file"),
    ("help", "it does not run the command"),
    ("version", "it does not run the command"),
    ("quiet", "what is said begins before the file is read"),
    ("verbose", "what is said begins before the file is read"),
];

/// Values of which each flag takes one, other than its default.
const VALUES: [&str; 20] = [
    "a=b",
    "false",
    "true",
    "3",
    "0.5",
    "per_role",
    "off",
    "vectors",
    "hierarchical",
    "latent",
    "soft",
    "gated",
    "bf16",
    "hf",
    "last:2",
    "length",
    "spread",
    "all_evidence",
    "cosine",
    "int8",
];

#[test]
fn every_flag_of_every_command_is_a_key_of_a_file_with_the_same_effect() {
    let commands = configured();
    let names: Vec<&str> = commands.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["train", "run", "eval"]);
    let mut tried = 0;
    for (command, flags) in &commands {
        let default = told(&[command], "").unwrap();
        for flag in flags.iter().filter_map(Arg::get_long) {
            if NO_KEYS.iter().any(|(name, _)| *name == flag) {
                continue;
            }
            let possible = flags.iter().find(|a| a.get_long() == Some(flag)).unwrap().get_possible_values();
            let possible: Vec<String> = possible.iter().map(|v| v.get_name().to_string()).collect();
            let values = VALUES.into_iter().chain(possible.iter().map(String::as_str));
            let values = values.chain(["f32", "individual-then-joint", "shuffled"]);
            let given = |value: &str| told(&[command, &format!("--{flag}={value}")], "");
            let (value, by_flag) = values
                .filter_map(|value| Some((value, given(value).ok()?)))
                .find(|(_, told)| *told != default)
                .unwrap_or_else(|| panic!("{command}: no value of --{flag} changes anything"));
            let key = flag.replace('-', "_");
            let toml = |value: &str| -> Vec<String> {
                vec![
                    value.to_string(),
                    format!("\"{value}\""),
                    format!("[{value}]"),
                    format!("[\"{value}\"]"),
                ]
            };
            let by_table = toml(value).into_iter().find(|value| {
                told(&[command], &format!("[{command}]\n{key} = {value}\n")).is_ok_and(|told| told == by_flag)
            });
            let value = by_table.unwrap_or_else(|| panic!("{command}: {key} in [{command}] is not --{flag}"));
            if command == "train" || !OF_TRAIN.contains(&key.as_str()) {
                let by_file = told(&[command], &format!("{key} = {value}\n")).unwrap();
                assert_eq!(by_file, by_flag, "{command}: {key} in a file is not --{flag}");
            }
            for (other, _) in &commands {
                told(&[other], &format!("{key} = {value}\n")).unwrap();
            }
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}

#[test]
fn defaults_that_help_tells_are_those_of_the_structs() {
    let object = |value: Value| value.as_object().cloned().unwrap();
    let of = |layer: Layer| layer.values;
    let engine = of(Layer::of(&TeamConfig::default()).unwrap());
    let train = [
        of(Layer::of(&TrainConfig::default()).unwrap()),
        of(Layer::of(&LoraConfig::default()).unwrap()),
        of(Layer::of(&TrainFiles::default()).unwrap()),
        engine.clone(),
    ];
    let batch = object(json!({"batch_size": TrainConfig::default().batch_size}));
    let run = [of(Layer::of(&GenerationConfig::default()).unwrap()), engine.clone(), batch.clone()];
    let e = EvalCommand::default();
    let eval = [object(json!({"max_new_tokens": e.max_new_tokens, "seed": e.seed})), engine, batch];
    let mut compared = 0;
    for (command, flags) in configured() {
        let defaults: &[Map<String, Value>] = match command.as_str() {
            "train" => &train,
            "run" => &run,
            _ => &eval,
        };
        for flag in flags {
            let key = flag.get_long().unwrap().replace('-', "_");
            let Some(default) = defaults.iter().find_map(|struct_| struct_.get(&key)) else { continue };
            let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
            let said = help.strip_suffix(']').and_then(|text| text.rsplit_once('['));
            let said = said.map(|(_, said)| said.split([',', ';', ':']).next().unwrap_or_default());
            match (default, said) {
                (Value::Number(default), Some(said)) => {
                    assert_eq!(default.as_f64(), said.parse().ok(), "{command} --{key}: {help}");
                }
                (Value::String(default), Some(said)) => assert_eq!(default, said, "{command} --{key}"),
                (Value::Bool(default), said) => {
                    assert_eq!(said == Some("true"), *default, "{command} --{key}")
                }
                (Value::Array(_), _) => continue,
                // The built-in team has latent steps of its own; `real` and `linear` are listed first.
                (_, None) => assert!(
                    ["latent_steps", "lr_scheduler_type"].contains(&key.as_str()),
                    "{command} --{key}"
                ),
                other => panic!("{command} --{key}: {other:?}"),
            }
            compared += 1;
        }
    }
    assert!(compared > 40, "{compared}");
}

/// One line of what is told, for instance `seed: 3`.
#[track_caller]
fn says(args: &[&str], file: &str, lines: &[&str]) {
    let told = told(args, file).unwrap_or_else(|e| panic!("{args:?} {file}: {e}"));
    let told: Vec<&str> = told.lines().map(|line| line.trim().trim_end_matches(',')).collect();
    for line in lines {
        assert!(told.contains(line), "{args:?} {file}: no `{line}` in {told:#?}");
    }
}

#[test]
fn a_flag_wins_over_the_command_s_table_over_the_file_over_the_default() {
    let file = "top_k = 1\n[run]\ntop_k = 2\n";
    says(&["run"], "", &["top_k: 0"]);
    says(&["run"], "top_k = 1\n", &["top_k: 1"]);
    says(&["run"], file, &["top_k: 2"]);
    says(&["run", "--top-k=3"], file, &["top_k: 3"]);
    let file = "learning_rate = 0.5\ntrace_gradient = \"last:1\"\n[train]\nmax_steps = 3\n";
    says(&["train", "--learning-rate=0.25"], file, &["learning_rate: 0.25", "trace_gradient: Last("]);
    assert_eq!(TrainConfig::default().trace_gradient, TraceGradient::Full);
}

#[test]
fn what_train_alone_means_at_the_top_is_not_told_to_other_commands() {
    let file = "data = \"train.jsonl\"\noutput = \"runs/a\"\nseed = 7\noverwrite = true\n";
    says(&["train"], file, &["overwrite: true", "\"train.jsonl\"", "seed: 7"]);
    // Fresh modules have the seed of the training.
    says(&["run"], file, &["data: None", "output: None", "overwrite: false", "seed: 42", "seed: Some("]);
    says(&["eval"], file, &["data: None", "output: None", "overwrite: false", "seed: 42", "7"]);
    let table = format!("{file}[eval]\ndata = \"test.jsonl\"\nseed = 8\n");
    says(&["eval"], &table, &["\"test.jsonl\"", "seed: 8", "output: None", "7"]);
    says(&["train"], &table, &["\"train.jsonl\"", "seed: 7"]);
    says(&["eval"], "eval_data = \"dev.jsonl\"\n", &["\"dev.jsonl\""]);
}

#[test]
fn a_flag_undoes_what_the_file_says() {
    let greedy = "greedy = true\n";
    says(&["run"], greedy, &["greedy: true"]);
    says(&["run", "--greedy=false"], greedy, &["greedy: false"]);
    says(&["run", "--temperature=0.9"], greedy, &["greedy: false", "temperature: 0.9"]);
    says(&["run", "--greedy"], "temperature = 0.9\n", &["greedy: true", "temperature: 0.6"]);
    says(&["eval", "--control=zero"], "all_controls = true\n", &["all_controls: false", "control: Zero"]);
    says(&["eval", "--all-controls"], "control = \"zero\"\n", &["all_controls: true", "control: Real"]);
    says(&["run", "--question=q"], "[run]\ndata = \"d\"\noutput = \"o\"\n", &["data: None", "output: None"]);
    says(&["train", "--overwrite"], "resume = true\n", &["resume: false", "overwrite: true"]);
    says(&["run"], "greedy = true\n[run]\ntemperature = 0.9\n", &["greedy: false", "temperature: 0.9"]);
}

#[test]
fn settings_that_exclude_each_other_are_told_where_they_stand() {
    let error = told(&["run"], "greedy = true\ntop_p = 0.5\n").unwrap_err();
    assert_eq!(error, "c.toml, line 2: `greedy` and `top_p` exclude each other; leave one of them out");
    let error = told(&["eval"], "[eval]\ncontrol = \"zero\"\nall_controls = true\n").unwrap_err();
    assert!(error.starts_with("c.toml, line 3: `all_controls` and `control`"), "{error}");
    told(&["train"], "greedy = true\ntop_p = 0.5\n").unwrap();
    let flags = |args: &[&str]| {
        let args = [&["diffmas"], args].concat();
        let cli = Cli::from_arg_matches(&program().try_get_matches_from(args).unwrap()).unwrap();
        cli.command.conflict().map(|Conflict { one, other }| [one, other])
    };
    assert_eq!(flags(&["run", "--greedy", "--min-p=0.1"]), Some(["greedy".into(), "min_p".into()]));
    assert_eq!(flags(&["run", "--greedy=false", "--min-p=0.1"]), None);
    assert_eq!(flags(&["train", "--resume", "--overwrite"]), Some(["resume".into(), "overwrite".into()]));
}

#[test]
fn wrong_values_in_a_file_name_line_and_what_is_known() {
    for (command, file, sentence) in [
        ("eval", "control = \"reel\"\n", "c.toml, line 1: unknown control `reel`; it is real, none, zero"),
        (
            "run",
            "[run]\ngreedy = \"yes\"\n",
            "c.toml, line 2: invalid type: string \"yes\", expected a boolean",
        ),
        ("run", "[run]\naccuracy = true\n", "c.toml, line 2: unknown key `accuracy`; known here: `model`"),
        (
            "run",
            "[run]\ntemprature = 1\n",
            "c.toml, line 2: unknown key `temprature`; did you mean `temperature`?",
        ),
        ("eval", "top_p = inf\n", "c.toml, line 1: inf is not a finite number"),
        (
            "train",
            "think = \"loud\"\n",
            "c.toml, line 1: unknown value `loud`; known here: `auto`, `on`, `off`",
        ),
    ] {
        let error = told(&[command], file).unwrap_err();
        assert!(error.starts_with(sentence), "{error}");
    }
}

/// What `train` is told by a file and flags.
fn training(file: &Path, flags: &TrainFlags) -> Result<TrainCommand> {
    TrainCommand::of(&Config::of_file(Some(file), flags)?)
}

fn team(command: &TrainCommand) -> Result<TeamConfig> {
    let stated = command.engine.stated_team()?;
    command.engine.overridden(stated.unwrap_or_else(TeamConfig::preset))
}

#[test]
fn every_recipe_is_understood_and_starts_with_its_command() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut recipes = 0;
    for entry in std::fs::read_dir(root.join("runs")).unwrap() {
        let path = entry.unwrap().path();
        let command = training(&path, &TrainFlags::default()).unwrap();
        team(&command).unwrap();
        command.training.validate().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let (first, name) = (text.lines().next().unwrap(), path.file_name().unwrap().to_str().unwrap());
        assert!(first.starts_with("# cargo run --release"), "{name}: {first}");
        assert!(first.contains(&format!(" train --config runs/{name}")), "{name}: {first}");
        recipes += 1;
    }
    assert!(recipes > 0);
}

/// A channel with a table and a group of its own.
struct Ring;

#[derive(Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RingSettings {
    width: usize,
}

impl Default for RingSettings {
    fn default() -> Self {
        Self { width: 3 }
    }
}

impl ChannelType for Ring {
    const NAME: &'static str = "ring";
    const ABOUT: &'static str = "The trace, with a table.";
    const SEGMENTS: bool = true;
    const GROUPS: &'static [ParameterGroup] = &[ParameterGroup::named("spokes")];
    type Settings = RingSettings;

    fn build<B: ModelBackend>(_settings: RingSettings, _sizes: &TeamSizes) -> ChannelPair<B> {
        ChannelPair::new(TraceChannel)
    }
}

#[test]
fn a_registered_channel_is_named_by_flag_or_file_and_keeps_its_table() {
    let kind = register::<Ring>().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    let channel = |file: &str, flag: Option<&str>| {
        std::fs::write(&path, file).unwrap();
        let mut flags = TrainFlags::default();
        flags.team.channel.channel = flag.map(|name| name.parse().unwrap());
        let command = training(&path, &flags).unwrap();
        let team = team(&command).unwrap();
        // What a run writes down reads back as the same team.
        let resolved = Layer::of(&command.engine.resolved(&team).unwrap()).unwrap();
        std::fs::write(&path, Merged::new([resolved], &[]).unwrap().to_toml().unwrap()).unwrap();
        let again = training(&path, &TrainFlags::default()).unwrap();
        assert_eq!(super::tests::team(&again).unwrap(), team);
        team.channel
    };
    let width = |channel: &ChannelConfig| channel.settings().get("width").cloned();
    let named = channel("", Some(Ring::NAME));
    assert_eq!((named.kind, width(&named)), (kind, Some(3.into())));
    let table = format!("[channel.{}]\nwidth = 5\n", Ring::NAME);
    for flag in [None, Some(Ring::NAME)] {
        assert_eq!(width(&channel(&table, flag)), Some(5.into()));
        let inside = format!("[team.channel.{}]\nwidth = 5\n[[team.agents]]\nname = \"a\"\n", Ring::NAME);
        assert_eq!(width(&channel(&inside, flag)), Some(5.into()));
    }
    assert_eq!(channel(&table, Some("vectors")), ChannelKind::VECTORS.into());
    let phase = |part: &str| {
        std::fs::write(&path, format!("[[phases]]\nname = \"a\"\ntrain = [\"{part}\"]\n")).unwrap();
        training(&path, &TrainFlags::default()).map_err(|e| e.to_string())
    };
    phase("spokes").unwrap();
    let error = phase("spoke").unwrap_err();
    assert!(error.contains("line 3: unknown part `spoke`; did you mean `spokes`? (known: lora, "), "{error}");
}

#[test]
fn the_example_of_the_readme_is_understood_by_every_command() {
    let readme = include_str!("../../../README.md");
    let mut examples = readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let file = examples.find(|text| text.contains("[run]")).unwrap();
    says(&["train"], file, &["max_steps: Some(", "latent_steps: Some(", "batch_size: 2", "seed: 42"]);
    says(&["run"], file, &["greedy: true", "max_new_tokens: 8", "output: None"]);
    says(&["eval"], file, &["all_controls: true", "output: None"]);
}
