//! Channels, topologies, phases and curricula that cannot be.

use std::fs;

use serde_json::json;

use crate::shared::{Place, failure, golden, line, says};

const VECTORS: [&str; 6] = ["--channel", "vectors", "--num-vectors", "2", "--vector-dim", "8"];

/// What `train` says about flags; nothing is written.
#[track_caller]
fn train(place: &Place, more: &[&str]) -> String {
    let message = failure(place.train(&place.path("out"), more));
    assert!(!place.path("out").exists(), "a run that was refused left its folder: {message}");
    message
}

#[test]
fn sizes_of_the_learned_channel_name_the_setting() {
    let place = Place::new();
    for (flag, name) in [("--num-vectors", "num_vectors"), ("--vector-dim", "vector_dim")] {
        says(&train(&place, &["--channel", "vectors", flag, "0"]), &[name, "at least 1"]);
    }
    for (flag, name) in
        [("--num-vectors", "num_vectors"), ("--vector-dim", "vector_dim"), ("--vector-heads", "vector_heads")]
    {
        for size in ["16385", "4611686018427387904", "18446744073709551615"] {
            says(&train(&place, &["--channel", "vectors", flag, size]), &[name, size, "at most 16384"]);
        }
    }
    let large = ["--channel", "vectors", "--num-vectors", "16384", "--vector-dim", "2048"];
    says(&train(&place, &large), &["num_vectors = 16384", "vector_dim = 2048", "too large"]);
    says(
        &train(&place, &["--channel", "hybrid", "--vector-dim", "6"]),
        &["vector_dim = 6", "vector_heads = 4"],
    );
    let far = ["--channel", "vectors", "--cross-attention-layers", "0,99"];
    says(&train(&place, &far), &["cross_attention_layers", "layer 99", "layers are 0 to"]);
    says(&train(&place, &["--channel", "text", "--message-tokens", "0"]), &["planner", "message_tokens = 0"]);
    let long = ["--channel", "text", "--message-tokens", "1500"];
    says(&train(&place, &long), &["line 1", "max_position_embeddings"]);
}

#[test]
fn graphs_that_cannot_run_show_why() {
    let place = Place::new();
    let team = |agents: &[(&str, &str)]| {
        let agent = |(name, reads): &(&str, &str)| {
            format!("[[agents]]\nname = \"{name}\"\nuser = \"x\"\nreads = [{reads}]\n")
        };
        let text = format!("topology = \"graph\"\n{}", agents.iter().map(agent).collect::<String>());
        let path = place.write("team.toml", text);
        failure(place.eval(&[&"--system", &path]))
    };
    says(&team(&[("a", "\"b\""), ("b", "\"a\""), ("c", "\"a\"")]), &["team.toml", "a reads b reads a"]);
    says(&team(&[("a", ""), ("b", "\"aa\"")]), &["team.toml", "agent `b`", "no agent `aa`", "agents: a, b"]);
    says(&team(&[("a", ""), ("b", "\"a\""), ("c", "\"a\"")]), &["team.toml", "one final agent", "b, c"]);
    says(&team(&[("a", "\"a\"")]), &["agent `a`", "cannot read itself"]);
    let message = failure(place.eval(&[&"--topology", &"hierarchical", &"--channel", &"overwrite"]));
    says(&message, &["overwrite", "sequential"]);
}

#[test]
fn phases_that_could_not_learn_name_the_phase() {
    let place = Place::new();
    let phase = |text: &str| {
        let path = place.write("c.toml", format!("[[phases]]\nname = \"first\"\n{text}\n"));
        let flags: Vec<&str> = VECTORS.into_iter().chain(["--config", path.to_str().unwrap()]).collect();
        train(&place, &flags)
    };
    says(
        &phase("train = [\"encoder\"]"),
        &["phase `first`", "all gates of cross_attention are 0 and frozen"],
    );
    says(&phase("train = [\"feed\"]"), &["phase `first`", "trains nothing"]);
    says(
        &phase("train = [\"encoder\", \"cross_attention\"]\nchannel = false"),
        &["`first`", "trains nothing"],
    );
    says(&phase("train = [\"lorra\"]"), &["c.toml", "line 3", "lora"]);
    says(&phase("max_stepps = 3"), &["c.toml", "line 3", "did you mean `max_steps`?"]);
    says(&phase("max_steps = 0"), &["phase `first`", "max_steps must be at least 1"]);
    says(&phase("[[phases]]\nname = \"first\""), &["phase `first`", "names that differ"]);
}

#[test]
fn weights_and_draws_that_the_data_does_not_allow_name_the_data() {
    let place = Place::new();
    says(&train(&place, &["--trajectory-weight", "0.5"]), &["data.jsonl", "`joint`", "`trajectories`"]);
    says(&train(&place, &["--phase-preset", "individual-then-joint"]), &["data.jsonl", "`individual`"]);
    says(&train(&place, &["--curriculum", "field:level"]), &["data.jsonl", "line 1", "`level` is missing"]);
    let mut second = line(&json!([5]), &json!([6]));
    second["level"] = json!(1.5);
    let mut first = second.clone();
    first["level"] = json!(0.5);
    place.write("data.jsonl", format!("{first}\n{second}\n"));
    says(&train(&place, &["--curriculum", "field:level"]), &["line 2", "`level`", "from 0 to 1", "1.5"]);
    let refused = place.train(&place.path("out"), &["--curriculum", "hard"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    for flag in ["--sender-dropout", "--position-dropout", "--initial-competence"] {
        says(&train(&place, &[flag, "1.5"]), &["from 0 to 1"]);
    }
}

#[test]
fn trajectories_of_nobody_name_the_role() {
    let place = Place::new();
    let mut data = line(&json!([5]), &json!([6]));
    for (role, part) in [("plannner", "no such upstream agent"), ("solver", "final agent")] {
        data["trajectory_ids"] = json!({role: [7]});
        place.write("data.jsonl", data.to_string());
        says(&train(&place, &[]), &["data.jsonl", "line 1", role, part]);
    }
    data["trajectory_ids"] = json!({"planner": []});
    place.write("data.jsonl", data.to_string());
    says(&train(&place, &[]), &["line 1", "`trajectory_ids.planner` is empty"]);
}

#[test]
fn communication_modules_of_another_team_are_refused() {
    let place = Place::new();
    let run = place.path("run");
    place.train(&run, &VECTORS).assert().success();
    let adapter = run.join("adapter");
    let eval = |more: &[&str]| {
        let mut command = place.eval(&[&"--adapter", &adapter]);
        command.args(VECTORS).args(more);
        command
    };
    eval(&["--latent-steps", "2"]).assert().success();
    let prior = ["--encoder-position-prior", "false"];
    says(&failure(eval(&prior)), &["communication_config.json", "`encoder_position_prior` is true", "false"]);
    // Modules that were written before the prior could be set have it.
    let settings = adapter.join("communication_config.json");
    let whole = fs::read_to_string(&settings).unwrap();
    let lines: Vec<&str> = whole.lines().filter(|line| !line.contains("encoder_position_prior")).collect();
    assert_eq!(lines.len() + 1, whole.lines().count());
    fs::write(&settings, lines.join("\n")).unwrap();
    eval(&["--latent-steps", "2"]).assert().success();
    says(&failure(eval(&prior)), &["`encoder_position_prior` is true"]);
    fs::write(&settings, whole).unwrap();
    says(&failure(eval(&["--num-vectors", "3"])), &["communication_config.json", "num_vectors", "2", "3"]);
    says(&failure(eval(&["--channel", "hybrid"])), &["communication_config.json", "`channel`"]);
    let agents = "[[agents]]\nname = \"planner\"\n[[agents]]\nname = \"solver\"\n";
    let team = place.write("team.toml", agents);
    let two = json!({"prompt_ids": {"planner": [5], "solver": [6]}, "target_ids": [7]}).to_string();
    let two = place.write("two.jsonl", two);
    let (team, two) = (team.to_str().unwrap(), two.to_str().unwrap());
    let other = ["--system", team, "--data", two];
    says(
        &failure(eval(&other)),
        &["adapter", "learned in another team", "`agents[critic]`", "--override-team"],
    );
    let other = [&other[..], &["--override-team"]].concat();
    says(&failure(eval(&other)), &["communication_config.json", "`agents`"]);
    let theirs = fs::read_to_string(adapter.join("communication_config.json")).unwrap();
    fs::write(
        adapter.join("communication_config.json"),
        theirs.replace("\"hidden_size\": ", "\"hidden_size\": 9"),
    )
    .unwrap();
    says(&failure(eval(&[])), &["communication_config.json", "`hidden_size`"]);
    fs::remove_file(adapter.join("communication_config.json")).unwrap();
    says(&failure(eval(&[])), &["communication_config.json"]);
    fs::remove_file(adapter.join("communication.safetensors")).unwrap();
    says(&failure(eval(&[])), &["communication.safetensors"]);
}

#[test]
fn controls_and_traces_of_internal_state_are_refused_where_agents_write() {
    let place = Place::new();
    says(
        &failure(place.eval(&[&"--channel", &"text", &"--control", &"zero"])),
        &["zero", "`text`", "real or none"],
    );
    says(
        &failure(place.eval(&[&"--channel", &"text", &"--control", &"self"])),
        &["self", "`text`", "real or none"],
    );
    let trace = place.path("t.safetensors");
    let run = |more: &[&str]| {
        let mut command = crate::shared::diffmas(&[
            &"run",
            &"--model",
            &golden("tiny-llama").join("model"),
            &"--data",
            &place.path("data.jsonl"),
        ]);
        command.args(more);
        failure(command)
    };
    says(&run(&["--channel", "text", "--save-trace", trace.to_str().unwrap()]), &["`text`", "no trace"]);
    let out = place.path("t.jsonl");
    says(&run(&["--save-trajectories", out.to_str().unwrap()]), &["--save-trajectories", "--channel text"]);
}
