//! Whether the source keeps to its floors: a file of the library uses its own floor and those below, and no two files use each other in a circle.
//!
//! What counts is what a file names from the crate's root or from the module above, outside of tests, followed through re-exports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// The folders of `src/` from the top floor down.
const FLOORS: [&[&str]; 14] = [
    &["engine"],
    &["bench"],
    &["report", "benchmarks"],
    &["evaluation"],
    &["training"],
    &["inference"],
    &["agents"],
    &["communication"],
    &["backbone"],
    &["text"],
    &["images"],
    &["checkpoint"],
    &["settings"],
    &["files", "processes"],
];

/// A module by the names on its path; the root has none.
type Module = Vec<String>;

/// The modules of the library, each with its source without comments and tests.
struct House {
    source: BTreeMap<Module, String>,
    /// What a module re-exports: the name there, and the path that it stands for.
    exports: BTreeMap<Module, BTreeMap<String, Module>>,
}

impl House {
    fn read(root: &Path) -> Self {
        let mut files = Vec::new();
        collect(root, &mut files);
        let comment = Regex::new(r"//[^\n]*").unwrap();
        let tests = Regex::new(r"(?s)#\[cfg\((all\()?test[^\n]*\n(pub(\([a-z]+\))? )?mod \w+ \{.*").unwrap();
        let mut source = BTreeMap::new();
        for file in files {
            let path = file.strip_prefix(root).unwrap().with_extension("");
            let mut module: Module = path.iter().map(|part| part.to_str().unwrap().to_string()).collect();
            if module == ["main"] || module[0] == "cli" {
                continue; // the program, which is above all of the library
            }
            if ["mod", "lib"].contains(&module.last().unwrap().as_str()) {
                module.pop();
            }
            let text = fs::read_to_string(&file).unwrap();
            let text = comment.replace_all(&text, "");
            source.insert(module, tests.replace(&text, "").into_owned());
        }
        let public = Regex::new(r"(?m)^\s*pub(\([a-z]+\))?\s+use\s+([\w:{},*\s]+);").unwrap();
        let exports = source.iter().map(|(module, text)| {
            let trees = public.captures_iter(text).flat_map(|found| leaves(&found[2]));
            let named = trees.map(|path| (path.last().unwrap().clone(), absolute(module, &path)));
            (module.clone(), named.collect())
        });
        let exports = exports.collect();
        Self { source, exports }
    }

    /// The module that defines what `path` names, as far as the files tell.
    fn owner(&self, path: &[String]) -> Module {
        let known = (0..=path.len()).rev().find(|&n| self.source.contains_key(&path[..n]));
        let (module, rest) = path.split_at(known.expect("the root is a module"));
        let exported = rest.first().and_then(|name| self.exports[module].get(name));
        match exported.filter(|target| target.as_slice() != path) {
            Some(target) => self.owner(&[target.as_slice(), &rest[1..]].concat()),
            None => module.to_vec(),
        }
    }

    /// The modules that each module uses.
    fn uses(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let import = Regex::new(r"(?m)^\s*(?:pub(?:\([a-z]+\))?\s+)?use\s+([\w:{},*\s]+);").unwrap();
        let inline = Regex::new(r"\b(?:crate|super)(?:::\w+)+").unwrap();
        let mut all = BTreeMap::new();
        for (module, text) in self.source.iter().filter(|(module, _)| !module.is_empty()) {
            let mut paths: Vec<Vec<String>> =
                import.captures_iter(text).flat_map(|u| leaves(&u[1])).collect();
            let rest = import.replace_all(text, "");
            paths.extend(inline.find_iter(&rest).flat_map(|path| leaves(path.as_str())));
            paths.retain(|path| ["crate", "super", "self"].contains(&path[0].as_str()));
            let owners = paths.iter().map(|path| self.owner(&absolute(module, path)));
            all.insert(module, owners.filter(|owner| owner != module && !owner.is_empty()).collect());
        }
        all
    }
}

/// The Rust files below `dir`.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
}

/// The paths of a `use` tree, renamings left out.
fn leaves(tree: &str) -> Vec<Vec<String>> {
    let Some((before, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        let path: Vec<String> = path.split("::").map(|name| name.trim().to_string()).collect();
        return if path == [""] { Vec::new() } else { vec![path] };
    };
    let inner = &rest[..rest.rfind('}').expect("braces are closed")];
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    let whole = parts.into_iter().filter(|part| !part.trim().is_empty());
    whole.flat_map(|part| leaves(&format!("{before}{}", part.trim()))).collect()
}

/// `path`, which stands in `module`, from the root on.
fn absolute(module: &[String], path: &[String]) -> Module {
    let up = path.iter().take_while(|name| *name == "super").count();
    match path[0].as_str() {
        "crate" => path[1..].to_vec(),
        "super" => [&module[..module.len().saturating_sub(up)], &path[up..]].concat(),
        "self" => [module, &path[1..]].concat(),
        _ => [module, path].concat(),
    }
}

/// The floor of a module, counted from the top; files beside the folders are below all of them.
fn floor(module: &[String]) -> usize {
    FLOORS.iter().position(|names| names.contains(&module[0].as_str())).unwrap_or(FLOORS.len())
}

#[test]
fn no_file_uses_a_floor_above_its_own() {
    let house = House::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let uses = house.uses();
    assert!(uses.len() > 100 && uses.values().map(BTreeSet::len).sum::<usize>() > 300, "{}", uses.len());
    let mut up = Vec::new();
    for (module, used) in &uses {
        let above = |other: &&Module| floor(other) < floor(module);
        up.extend(used.iter().filter(above).map(|other| (module.join("/"), other.join("/"))));
    }
    assert!(up.is_empty(), "{up:#?}");
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let house = House::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let mut uses = house.uses();
    // A file that uses none of those left, or is used by none of them, is in no circle.
    loop {
        let (files, before): (BTreeSet<Module>, _) = (uses.keys().cloned().cloned().collect(), uses.len());
        uses.retain(|_, used| used.iter().any(|other| files.contains(other)));
        let used: BTreeSet<Module> = uses.values().flatten().cloned().collect();
        uses.retain(|module, _| used.contains(*module));
        if uses.len() == before {
            break;
        }
    }
    let names: Vec<String> = uses.keys().map(|module| module.join("/")).collect();
    assert!(names.is_empty(), "a circle: {names:#?}");
}

#[test]
fn tensors_come_to_the_host_in_one_way() {
    let house = House::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let reads = Regex::new(r"\.(try_)?(into_data|to_data|into_scalar|execute)\(\)").unwrap();
    // Reference numbers of unit tests.
    let tests = ["backbone".to_string(), "fixtures".to_string()];
    let others = house.source.iter().filter(|(module, text)| *module != &tests && reads.is_match(text));
    let names: Vec<String> = others.map(|(module, _)| module.join("/")).collect();
    assert!(
        names.is_empty(),
        "use backends::host_data, which brings nothing of a device that failed: {names:?}"
    );
}
