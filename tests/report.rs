//! The page that `report` makes of real runs.

mod shared;

use std::fs;
use std::path::Path;

use roxmltree::{Document, Node, ParsingOptions};
use shared::{Place, diffmas};

/// The page of a folder, and what the command says.
fn report(dir: &Path, more: &[&str]) -> (String, String) {
    let mut command = diffmas(&[&"report", &dir]);
    let out = command.args(more).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let said = String::from_utf8(out.stdout).unwrap();
    let path = said.trim_end().rsplit_once("report in ").unwrap().1;
    (fs::read_to_string(path).unwrap(), said)
}

/// Asserts that the page is well-formed and whole by itself, and returns its first line and the names of its sections.
fn read(html: &str) -> (String, Vec<String>) {
    let page =
        Document::parse_with_options(html, ParsingOptions { allow_dtd: true, ..Default::default() }).unwrap();
    let all = || page.root().descendants().filter(Node::is_element);
    for node in all() {
        let name = node.tag_name().name();
        assert!(!["script", "link", "img", "iframe", "object"].contains(&name), "{name}");
        for attribute in node.attributes() {
            assert!(!["src", "href", "srcset"].contains(&attribute.name()), "{name} {attribute:?}");
            assert!(!attribute.value().contains("://"), "{name} {attribute:?}");
        }
        if name == "style" {
            assert!(!["://", "url(", "@import"].iter().any(|s| node.text().unwrap().contains(s)));
        }
        if name == "svg" {
            assert!(node.attribute("viewBox").is_some(), "charts scale");
            assert!(node.attribute("aria-hidden").is_some() || node.attribute("aria-label").is_some());
        }
    }
    let first = all()
        .find(|n| n.has_tag_name("body"))
        .unwrap()
        .descendants()
        .find(|n| n.is_text() && !n.text().unwrap().trim().is_empty());
    assert_eq!(first.unwrap().parent().unwrap().tag_name().name(), "h1", "the verdict is the first line");
    let sections =
        all().filter(|n| n.has_tag_name("section")).map(|n| n.attribute("class").unwrap().to_string());
    (first.unwrap().text().unwrap().to_string(), sections.collect())
}

#[test]
fn a_training_run_becomes_a_page_with_its_curves() {
    let place = Place::new();
    let (out, data) = (place.path("out"), place.path("data.jsonl"));
    place.train(&out, &["--eval-data", data.to_str().unwrap()]).assert().success();
    let (html, said) = report(&out, &[]);
    let (verdict, sections) = read(&html);
    assert_eq!(sections, ["training", "settings"]);
    assert!(verdict.starts_with("The held-out loss ") && verdict.contains("in 4 updates"), "{verdict}");
    assert!(said.starts_with(&verdict) && said.contains("report in "), "{said}");
    for part in ["held out", "at the message of planner", "learning_rate", "Norms of gradients"] {
        assert!(html.contains(part), "{part}");
    }
    // What a report adds to the folder does not keep the run from going on.
    diffmas(&[&"train", &"--resume", &"--output", &out]).assert().success();
}

#[test]
fn scores_with_every_control_become_a_page_that_begins_with_the_verdict() {
    let place = Place::new();
    let out = place.path("out");
    place.eval(&[&"--all-controls", &"--output", &out]).assert().success();
    let page = place.path("pages/page.html");
    let (html, said) = report(&out, &["--output", page.to_str().unwrap()]);
    let (verdict, sections) = read(&html);
    assert_eq!(sections, ["results"]);
    assert!(page.exists() && !out.join("report.html").exists());
    // An untrained team of random weights answers nothing, whatever it reads.
    assert!(verdict.contains("cannot tell whether the message matters: no answer is right"), "{verdict}");
    assert!(html.contains("class=\"warning\"") && !said.contains("does not communicate"), "{said}");
    for trace in ["real", "none", "zero", "shuffled", "random", "drop:planner"] {
        assert!(html.contains(&format!("<td>{trace}</td>")), "{trace}");
    }
}
