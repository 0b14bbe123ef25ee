//! Folders of which no report can be made.

use std::fs;
use std::path::Path;

use crate::shared::{Place, diffmas, failure, says, tree};

#[test]
fn a_folder_without_a_run_is_a_sentence() {
    let place = Place::new();
    let report = |dir: &Path| failure(diffmas(&[&"report", &dir]));
    says(&report(&place.path("nowhere")), &["nowhere", "there is no such folder"]);
    says(&report(&place.path("data.jsonl")), &["data.jsonl", "this is a file"]);
    place.write("home/thesis.tex", "years of work");
    place.write("home/metrics.jsonl", "");
    says(
        &report(&place.path("home")),
        &["home", "nothing to report", "metrics.jsonl", "results.json", "comparison.json"],
    );
    assert_eq!(tree(&place.path("home")), ["metrics.jsonl", "thesis.tex"]);
}

#[test]
fn a_malformed_file_is_named_with_its_line_and_a_cut_last_line_is_not() {
    let place = Place::new();
    let report = || diffmas(&[&"report", &place.path("run")]);
    place.write(
        "run/metrics.jsonl",
        "{\"step\": 1, \"loss\": 1.0}\n{\"step\": 2, \"lo\n{\"step\": 3, \"loss\": 1.0}\n",
    );
    says(&failure(report()), &["run/metrics.jsonl, line 2: malformed JSON at column"]);
    place.write("run/metrics.jsonl", "{\"step\": 1, \"loss\": 1.0}\n{\"loss\": 1.0}\n");
    says(&failure(report()), &["run/metrics.jsonl, line 2: ", "missing field `step`"]);
    place.write("run/metrics.jsonl", "{\"step\": 1, \"loss\": 1.0}\n{\"step\": 2, \"lo");
    for (name, text, parts) in [
        ("results.json", "[\n{\"trace\": \"real\"}]", ["run/results.json, line 2: ", "missing field"]),
        (
            "comparison.json",
            "{\"title\": \"t\",\n\"guessing\": \"no\"}",
            ["run/comparison.json, line 2: ", "invalid type"],
        ),
        ("inspection.json", "{", ["run/inspection.json, line 1: ", "EOF"]),
    ] {
        let path = place.write(&format!("run/{name}"), text);
        says(&failure(report()), &parts);
        fs::remove_file(path).unwrap();
    }
    place.write("run/config.toml", [0xff, 0xfe]);
    says(&failure(report()), &["run/config.toml", "UTF-8"]);
    assert!(!place.path("run/report.html").exists());
    place.write("run/config.toml", "");
    report().assert().success();
}

#[test]
fn a_file_that_is_no_page_is_replaced_only_with_a_flag_and_what_a_page_is_made_of_never() {
    let place = Place::new();
    let metrics = place.write("run/metrics.jsonl", "{\"step\": 1, \"loss\": 1.0}\n");
    let report = |more: &[&str]| {
        let mut command = diffmas(&[&"report", &place.path("run")]);
        command.args(more);
        command
    };
    place.write("run/report.html", "mine");
    says(&failure(report(&[])), &["run/report.html", "the file exists", "--overwrite"]);
    report(&["--overwrite"]).assert().success();
    let output = metrics.to_str().unwrap();
    says(
        &failure(report(&["--output", output, "--overwrite"])),
        &["metrics.jsonl", "would replace this input"],
    );
    says(&failure(report(&["--output", place.path("run").to_str().unwrap()])), &["run", "must be a file"]);
    assert_eq!(fs::read_to_string(metrics).unwrap(), "{\"step\": 1, \"loss\": 1.0}\n");
    assert_eq!(tree(&place.path("run")), ["metrics.jsonl", "report.html"]);
}
