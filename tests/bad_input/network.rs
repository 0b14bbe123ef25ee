//! A known model without a network.

use crate::shared::{Place, diffmas, failure, says, tree};

#[test]
fn without_a_network_the_model_is_named_and_what_was_tried() {
    let place = Place::new();
    let (cache, hub) = (place.path("cache"), place.path("hub"));
    let mut run = diffmas(&[&"run", &"--model", &"smollm2-135m-instruct", &"--question", &"what?"]);
    // Nothing listens on port 9 of this machine.
    run.env("DIFFMAS_CACHE", &cache)
        .env("HF_HOME", &hub)
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("HF_HUB_CACHE")
        .env("PIP_NO_INDEX", "1");
    says(&failure(run), &["smollm2-135m-instruct", "--model"]);
    for dir in [cache, hub].iter().filter(|dir| dir.exists()) {
        let half: Vec<String> = tree(dir).into_iter().filter(|name| dir.join(name).is_file()).collect();
        assert!(half.iter().all(|name| name.ends_with(".lock")), "half-written: {half:?}");
    }
}
