//! Output folders that cannot be written, are in use, or hold something else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::shared::{Place, diffmas, failure, golden, says, tree};

#[test]
fn an_output_that_is_a_file_or_lies_below_one_is_a_sentence() {
    let place = Place::new();
    let file = place.path("data.jsonl");
    says(&failure(place.train(&file, &[])), &["data.jsonl", "must be a folder"]);
    says(&failure(place.train(&file.join("run"), &[])), &["data.jsonl/run", "cannot be made"]);
    says(&failure(place.eval(&[&"--output", &file])), &["data.jsonl", "must be a folder"]);
    let nameless = place.write("c.toml", "output = \"\"");
    let (model, data) = (golden("tiny-llama").join("model"), &file);
    let train = diffmas(&[&"train", &"--config", &nameless, &"--model", &model, &"--data", data]);
    says(&failure(train), &["output is empty"]);
    says(&failure(place.train(Path::new("/proc/diffmas"), &[])), &["/proc/diffmas", "cannot be made"]);
}

#[test]
fn answers_that_could_not_be_written_are_not_computed_first() {
    let place = Place::new();
    let (model, data) = (golden("tiny-llama").join("model"), place.path("data.jsonl"));
    let run = |output: &Path, more: &[&str]| {
        let mut command = diffmas(&[&"run", &"--model", &model, &"--data", &data, &"--output", &output]);
        command.args(more);
        command
    };
    fs::create_dir(place.path("folder")).unwrap();
    says(&failure(run(&place.path("folder"), &["--overwrite"])), &["folder", "must be a file"]);
    says(&failure(run(&data, &[])), &["data.jsonl", "exists", "--overwrite"]);
    says(&failure(run(&data.join("answers.jsonl"), &[])), &["answers.jsonl", "cannot be written"]);
    says(&failure(run(Path::new("/proc/answers.jsonl"), &[])), &["/proc/answers.jsonl", "cannot be written"]);
    run(&place.path("made/for/it/answers.jsonl"), &["--max-new-tokens", "2"]).assert().success();
    assert_eq!(tree(&place.path("made")), ["for", "for/it", "for/it/answers.jsonl"]);
}

#[test]
fn a_folder_that_is_not_empty_is_kept_without_a_flag_and_a_foreign_one_with_any() {
    let place = Place::new();
    let out = place.path("out");
    place.train(&out, &["--max-steps", "1"]).assert().success();
    let before = tree(&out);
    says(&failure(place.train(&out, &[])), &["not empty", "--resume", "--overwrite"]);
    says(&failure(place.eval(&[&"--output", &out])), &["not empty", "--overwrite"]);
    assert_eq!(tree(&out), before);
    place.train(&out, &["--max-steps", "1", "--overwrite"]).assert().success();
    place.write("home/thesis.tex", "years of work");
    says(
        &failure(place.train(&place.path("home"), &["--overwrite"])),
        &["holds no earlier run", "give another"],
    );
    assert_eq!(tree(&place.path("home")), ["thesis.tex"]);
}

#[test]
fn merging_overwrites_a_merged_model_and_nothing_else() {
    let place = Place::new();
    let (model, adapter) = (golden("tiny-llama").join("model"), golden("tiny-llama").join("adapter"));
    let merge = |output: &str| {
        let output = place.path(output);
        diffmas(&[&"merge", &"--model", &model, &"--adapter", &adapter, &"--output", &output, &"--overwrite"])
    };
    place.write("home/thesis.tex", "years of work");
    place.write("home/config.json", "{}");
    says(&failure(merge("home")), &["home", "holds no earlier merged model", "give another --output"]);
    assert_eq!(tree(&place.path("home")), ["config.json", "thesis.tex"]);
    for _ in 0..2 {
        merge("merged").assert().success();
    }
    assert!(tree(&place.path("merged")).contains(&"model.safetensors".to_string()));
}

#[test]
fn overwriting_does_not_delete_what_it_reads() {
    let place = Place::new();
    let out = place.path("out");
    place.train(&out, &["--max-steps", "1"]).assert().success();
    let before = tree(&out);
    let adapter = out.join("adapter");
    let again = place.train(&out, &["--overwrite", "--adapter", adapter.to_str().unwrap()]);
    says(&failure(again), &["out/adapter", "--overwrite would delete this input"]);
    let score = place.eval(&[&"--output", &out, &"--overwrite", &"--adapter", &adapter]);
    says(&failure(score), &["--overwrite would delete this input"]);
    assert_eq!(tree(&out), before);
}

/// A long training run, killed at the end of the test at the latest.
struct Running(Child);

impl Running {
    fn start(place: &Place, output: &Path) -> Self {
        let child = Command::new(assert_cmd::cargo::cargo_bin("diffmas"))
            .arg("train")
            .args(place.training(output))
            .args(["--max-steps", "1000000", "--save-steps", "1000000"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (running, deadline) = (Self(child), Instant::now() + Duration::from_secs(120));
        while !fs::metadata(output.join("metrics.jsonl")).is_ok_and(|file| file.len() > 0) {
            assert!(Instant::now() < deadline, "the run did not start");
            sleep(Duration::from_millis(5));
        }
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn a_second_run_on_the_same_folder_is_refused_until_the_first_is_gone() {
    let place = Place::new();
    let out = place.path("out");
    let running = Running::start(&place, &out);
    let resume = || diffmas(&[&"train", &"--resume", &"--output", &out, &"--max-steps", &"2"]);
    for second in [
        place.train(&out, &[]),
        place.train(&out, &["--overwrite"]),
        resume(),
        place.eval(&[&"--output", &out, &"--overwrite"]),
    ] {
        says(&failure(second), &["out", "another diffmas is writing to this folder"]);
    }
    drop(running);
    resume().assert().success();
}

#[test]
fn a_folder_in_which_a_run_was_killed_before_it_began_counts_as_empty() {
    let place = Place::new();
    place.write("out/.diffmas.lock", "");
    place.write("out/.config.toml.tmp-Ab12", "batch_si");
    place.train(&place.path("out"), &["--max-steps", "1"]).assert().success();
    assert!(tree(&place.path("out")).iter().all(|name| !name.contains(".tmp-")));
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_devices_pipes_and_sockets_are_never_replaced() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let place = Place::new();
    let (model, data) = (golden("tiny-llama").join("model"), place.path("data.jsonl"));
    let run = |output: &Path| {
        let flags: [&dyn AsRef<std::ffi::OsStr>; 2] = [&"run", &"--overwrite"];
        let mut command = diffmas(&flags);
        command.arg("--model").arg(&model).arg("--data").arg(&data).args([
            "--greedy",
            "--max-new-tokens",
            "2",
        ]);
        command.arg("--output").arg(output);
        command
    };
    run(&place.path("plain")).assert().success();
    let answers = fs::read(place.path("plain")).unwrap();
    place.write("target", "old");
    for target in ["target", "made/target"] {
        let link = place.path("link");
        let _ = fs::remove_file(&link);
        symlink(target, &link).unwrap();
        run(&link).assert().success();
        assert!(link.is_symlink());
        assert_eq!(fs::read(place.path(target)).unwrap(), answers);
    }
    assert_eq!(run(Path::new("/dev/stdout")).output().unwrap().stdout, answers);
    run(Path::new("/dev/null")).assert().success();
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let socket = std::os::unix::net::UnixListener::bind(place.path("socket")).unwrap();
    says(&failure(run(&place.path("socket"))), &["socket", "must be a file"]);
    drop(socket);
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let from = pipe.clone();
    let reader = std::thread::spawn(move || fs::read(from).unwrap());
    run(&pipe).assert().success();
    assert_eq!(reader.join().unwrap(), answers);
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
}

#[cfg(unix)]
#[test]
fn a_lock_that_is_a_link_or_a_pipe_is_refused_and_empties_nothing() {
    let place = Place::new();
    let out = place.path("out");
    place.train(&out, &["--max-steps", "1"]).assert().success();
    let (lock, victim) = (out.join(".diffmas.lock"), place.write("victim", "precious"));
    let resume = || diffmas(&[&"train", &"--resume", &"--output", &out]);
    fs::remove_file(&lock).unwrap();
    std::os::unix::fs::symlink(&victim, &lock).unwrap();
    says(&failure(resume()), &[".diffmas.lock", "a symbolic link", "delete it"]);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    fs::remove_file(&lock).unwrap();
    assert!(Command::new("mkfifo").arg(&lock).status().unwrap().success());
    says(&failure(resume()), &[".diffmas.lock", "a pipe", "delete it"]);
}

#[test]
fn what_a_stopped_run_left_is_gone_on_with_or_given_up_but_not_lost() {
    let place = Place::new();
    let (model, data) = (golden("tiny-llama").join("model"), place.path("data.jsonl"));
    let run = |output: &str, more: &[&str]| {
        let output = place.path(output);
        let mut command = diffmas(&[&"run", &"--model", &model, &"--data", &data, &"--output", &output]);
        command.args(["--batch-size", "1", "--max-new-tokens", "2"]).args(more);
        command
    };
    run("whole", &[]).assert().success();
    says(&failure(run("whole", &["--resume"])), &["whole", "nothing to resume"]);
    place.write("a.part", "no run's\n");
    says(&failure(run("a", &[])), &["a.part", "--resume", "--overwrite"]);
    says(&failure(run("a", &["--resume"])), &["a.part, line 1", "--overwrite"]);
    run("a", &["--overwrite"]).assert().success();
    assert!(!place.path("a.part").exists());
    let part = |seed: &str| {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin("diffmas"))
            .args(["run", "--seed", seed, "--batch-size", "1", "--max-new-tokens", "1500", "--model"])
            .arg(&model)
            .arg("--data")
            .arg(&data)
            .arg("--output")
            .arg(place.path("b"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !fs::read_to_string(place.path("b.part")).is_ok_and(|text| text.ends_with('\n')) {
            sleep(Duration::from_millis(2));
        }
        child.kill().and_then(|()| child.wait()).unwrap();
    };
    part("1");
    let other = ["--resume", "--max-new-tokens", "1500", "--seed", "2"];
    says(&failure(run("b", &other)), &["b.part", "another run", "`seed`: 1, here 2"]);
    let other = ["--resume", "--max-new-tokens", "1500", "--seed", "1", "--dtype", "bf16"];
    says(&failure(run("b", &other)), &["b.part", "another run", "`dtype`: \"f32\", here \"bf16\""]);
    place.write("samples/samples.jsonl.part", "");
    says(&failure(place.eval(&[&"--output", &place.path("samples")])), &["samples.jsonl.part", "--resume"]);
    place.eval(&[&"--output", &place.path("samples"), &"--resume"]).assert().success();
    assert!(!place.path("samples/samples.jsonl.part").exists());
}

/// Starts the program with `args`, asks it to end once it has begun, and returns its exit code and how long that took.
#[cfg(unix)]
fn ended(args: &[&dyn AsRef<std::ffi::OsStr>]) -> (Option<i32>, Duration) {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("diffmas"));
    command.args(args.iter().map(|a| a.as_ref())).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let _open = child.stdin.take(); // else it ends as the program is waited for
    sleep(Duration::from_millis(500));
    let clock = Instant::now();
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    (child.wait().unwrap().code(), clock.elapsed())
}

#[cfg(unix)]
#[test]
fn a_program_that_waits_for_a_pipe_hears_that_it_is_to_end() {
    let place = Place::new();
    let (model, pipe) = (golden("tiny-llama").join("model"), place.path("pipe"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let data = place.path("data.jsonl");
    for args in [
        &[&"run" as &dyn AsRef<std::ffi::OsStr>, &"--model", &model, &"--data", &pipe][..],
        &[&"run", &"--model", &model, &"--data", &"/dev/stdin"],
        &[&"run", &"--model", &model, &"--data", &data, &"--system", &pipe],
        &[&"eval", &"--model", &model, &"--data", &data, &"--config", &pipe],
    ] {
        let (code, time) = ended(args);
        assert_eq!(code, Some(130));
        assert!(time < Duration::from_secs(2), "{time:?}");
    }
}

#[cfg(unix)]
#[test]
fn devices_without_end_and_pipes_for_weights_are_sentences() {
    let place = Place::new();
    let model = place.model();
    let zero = Path::new("/dev/zero");
    says(&failure(place.eval(&[&"--data", &zero])), &["/dev/zero, line 1", "more than 64 MiB"]);
    says(&failure(place.eval(&[&"--system", &zero])), &["/dev/zero", "more than 64 MiB"]);
    says(&failure(place.eval(&[&"--config", &zero])), &["/dev/zero", "more than 64 MiB"]);
    let weights = model.join("model.safetensors");
    fs::remove_file(&weights).unwrap();
    assert!(Command::new("mkfifo").arg(&weights).status().unwrap().success());
    says(&failure(place.eval(&[&"--model", &model])), &["model.safetensors", "a device or a pipe"]);
    let mut many = place.eval(&[]);
    many.env("RAYON_NUM_THREADS", "100000").assert().success();
}

/// Something mounted on a folder for one test.
struct Mount(PathBuf);

impl Mount {
    /// `None`, said loudly, where mounting is not allowed.
    fn new(dir: PathBuf, args: &[&str]) -> Option<Self> {
        fs::create_dir_all(&dir).unwrap();
        if mount(args, &dir) {
            return Some(Self(dir));
        }
        eprintln!("SKIPPED: `mount {}` is not allowed here", args.join(" "));
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn mount(args: &[&str], dir: &Path) -> bool {
    cfg!(target_os = "linux")
        && Command::new("mount").args(args).arg(dir).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

#[test]
fn a_full_disk_stops_a_run_with_a_sentence_and_leaves_only_whole_files() {
    let place = Place::new();
    let Some(disk) = Mount::new(place.path("disk"), &["-t", "tmpfs", "-o", "size=1500k", "none"]) else {
        return;
    };
    let (full, whole) = (disk.0.join("run"), place.path("whole"));
    let steps = ["--max-steps", "12", "--save-steps", "1"];
    says(&failure(place.train(&full, &steps)), &["disk/run", "cannot be written", "No space left"]);
    let left = tree(&full);
    assert!(left.iter().any(|name| name == "checkpoints/step-1/state.json"), "{left:?}");
    assert!(left.iter().all(|name| !name.contains(".tmp-")), "half-written: {left:?}");
    for line in fs::read_to_string(full.join("metrics.jsonl")).unwrap().lines() {
        assert!(serde_json::from_str::<Value>(line).unwrap()["step"].is_u64(), "{line}");
    }
    // With room again the run goes on to the bits of one that was never stopped.
    assert!(mount(&["-o", "remount,size=64m"], &disk.0));
    diffmas(&[&"train", &"--resume", &"--output", &full]).assert().success();
    place.train(&whole, &steps).assert().success();
    let adapter = |run: &Path| fs::read(run.join("adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(adapter(&full), adapter(&whole));
}

#[test]
fn a_disk_that_is_full_from_the_start_or_read_only_is_a_sentence() {
    let place = Place::new();
    if let Some(disk) = Mount::new(place.path("full"), &["-t", "tmpfs", "-o", "size=4k", "none"]) {
        fs::write(disk.0.join("filler"), vec![0; 4096]).unwrap();
        let message = failure(place.train(&disk.0.join("run"), &[]));
        says(&message, &["full/run", "No space left"]);
    }
    fs::create_dir_all(place.path("locked/empty")).unwrap();
    let locked = place.path("locked");
    let text = locked.to_str().unwrap();
    let Some(locked) = Mount::new(locked.clone(), &["--bind", text]) else { return };
    assert!(mount(&["-o", "remount,ro,bind"], &locked.0));
    for dir in ["run", "empty"] {
        says(&failure(place.train(&locked.0.join(dir), &[])), &["locked", "Read-only file system"]);
        says(&failure(place.eval(&[&"--output", &locked.0.join(dir)])), &["locked", "Read-only file system"]);
    }
    assert_eq!(tree(&locked.0), ["empty"]);
}
