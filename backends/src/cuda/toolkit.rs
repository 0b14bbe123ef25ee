//! Where CUDA's compiler and headers may lie: toolkits of NVIDIA, of distributions and of conda, and pip's packages.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The name of the compiler's library, with or without a version behind it.
const LIBRARY: &str = "libnvrtc.so";

/// What every kernel includes, and what those on tensor cores do.
const HEADER: &str = "include/cuda_runtime.h";
const TENSOR_CORES: &str = "include/crt/mma.h";

/// Something that CUDA may be installed in.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Headers are in `include` below it.
    root: PathBuf,
    /// Folders that may hold the compiler's library.
    libraries: Vec<PathBuf>,
}

impl Place {
    /// A folder laid out as NVIDIA's own toolkit.
    fn toolkit(root: PathBuf) -> Self {
        let machine = std::env::consts::ARCH;
        let folders =
            ["lib64", "lib", &format!("targets/{machine}-linux/lib"), &format!("lib/{machine}-linux-gnu")];
        Self { libraries: folders.iter().map(|dir| root.join(dir)).collect(), root }
    }
}

/// What was found of CUDA, each in the order in which it is to be taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Compilers in a folder that the user names; they come before what the loader finds by itself.
    pub named: Vec<PathBuf>,
    /// Other compilers.
    pub others: Vec<PathBuf>,
    /// The folder with `include/cuda_runtime.h`, and whether headers for tensor cores are there.
    pub headers: Option<(PathBuf, bool)>,
}

/// Looks for CUDA where the environment variables `var` and the usual places under `root`, which is `/`, say.
pub fn find(var: &dyn Fn(&str) -> Option<OsString>, root: &Path) -> Found {
    let set = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let named: Vec<Place> =
        ["CUDA_PATH", "CUDA_HOME"].iter().filter_map(|name| set(name)).map(Place::toolkit).collect();
    let others = others(&set, root);
    let all = || named.iter().chain(&others);
    let has = |header: &str| all().find(|place| place.root.join(header).exists());
    // The user's word counts, whatever is there.
    let own = named.iter().find(|place| place.root.join(HEADER).exists());
    let headers = own.or_else(|| has(TENSOR_CORES).filter(|place| place.root.join(HEADER).exists()));
    let headers = headers.or_else(|| has(HEADER));
    Found {
        named: compilers(&named),
        others: compilers(&others),
        headers: headers.map(|place| (place.root.clone(), place.root.join(TENSOR_CORES).exists())),
    }
}

/// The places that nobody named.
fn others(set: &dyn Fn(&str) -> Option<PathBuf>, root: &Path) -> Vec<Place> {
    let mut toolkits = Vec::new();
    let path = set("PATH").unwrap_or_default();
    let in_path = |name: &str| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file());
    if let Some(nvcc) = in_path("nvcc") {
        let nvcc = fs::canonicalize(&nvcc).unwrap_or(nvcc);
        toolkits.extend(nvcc.ancestors().nth(2).map(Path::to_path_buf));
    }
    toolkits.push(root.join("usr/local/cuda"));
    toolkits.extend(below(&root.join("usr/local"), "cuda-").into_iter().rev());
    toolkits.extend(["opt/cuda", "usr/lib/cuda", "usr"].map(|dir| root.join(dir)));
    let conda = set("CONDA_PREFIX");
    if let Some(conda) = &conda {
        toolkits.push(conda.join(format!("targets/{}-linux", std::env::consts::ARCH)));
        toolkits.push(conda.clone());
    }
    let python = in_path("python3").into_iter().flat_map(|own| [fs::canonicalize(&own).ok(), Some(own)]);
    let prefixes = python.flatten().filter_map(|python| Some(python.ancestors().nth(2)?.to_path_buf()));
    let user = set("HOME").map(|home| home.join(".local"));
    let system = ["usr/local", "usr"].map(|dir| root.join(dir));
    let prefixes = [set("VIRTUAL_ENV"), conda, user].into_iter().flatten().chain(prefixes).chain(system);
    let mut places: Vec<Place> = toolkits.into_iter().map(Place::toolkit).collect();
    places.extend(prefixes.flat_map(|prefix| pip(&prefix)));
    places
}

/// What pip installed of NVIDIA's packages below the prefix of a Python: those for CUDA 13 share a folder, older ones have one each.
fn pip(prefix: &Path) -> Vec<Place> {
    let pythons = ["lib", "lib64"].into_iter().flat_map(|lib| below(&prefix.join(lib), "python3"));
    let packages = pythons.flat_map(|dir| ["site-packages", "dist-packages"].map(|name| dir.join(name)));
    let nvidia = packages.map(|dir| dir.join("nvidia")).filter(|dir| dir.is_dir());
    let places = nvidia.flat_map(|dir| {
        let mut places: Vec<Place> = below(&dir, "cu1").into_iter().rev().map(Place::toolkit).collect();
        places.push(Place { root: dir.join("cuda_runtime"), libraries: vec![dir.join("cuda_nvrtc/lib")] });
        places
    });
    places.collect()
}

/// The folders in `dir` whose names begin with `prefix`, in the order of the numbers behind it.
fn below(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let numbers = name.to_str()?.strip_prefix(prefix)?.split('.').map(str::parse);
            Some((numbers.flatten().collect(), entry.path()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// The compiler's libraries in `places`, each once.
fn compilers(places: &[Place]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in places.iter().flat_map(|place| &place.libraries) {
        let names = below(dir, LIBRARY).into_iter().rev().filter_map(|path| fs::canonicalize(path).ok());
        for path in names {
            if !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A machine made up in a folder: files by their paths, and what is set.
    struct Machine {
        dir: tempfile::TempDir,
        set: BTreeMap<&'static str, OsString>,
    }

    impl Machine {
        fn of(files: &[&str]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let machine = Self { dir, set: BTreeMap::new() };
            for file in files {
                let path = machine.path(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            machine
        }

        fn path(&self, path: &str) -> PathBuf {
            fs::canonicalize(self.dir.path()).unwrap().join(path)
        }

        fn set(mut self, name: &'static str, path: &str) -> Self {
            self.set.insert(name, self.path(path).into());
            self
        }

        fn find(&self) -> Found {
            find(&|name| self.set.get(name).cloned(), &self.path(""))
        }

        #[track_caller]
        fn finds(&self, compiler: &str, headers: &str) {
            let found = self.find();
            assert_eq!(found.named.iter().chain(&found.others).next(), Some(&self.path(compiler)));
            assert_eq!(found.headers.map(|(root, _)| root), Some(self.path(headers)));
        }
    }

    const MMA: &str = "include/crt/mma.h";

    #[test]
    fn nothing_is_found_where_nothing_is() {
        let found = Machine::of(&["usr/local/cuda/include/cuda.h", "usr/lib/libcuda.so"]).find();
        assert_eq!(found, Found { named: vec![], others: vec![], headers: None });
    }

    #[test]
    fn toolkits_are_found_where_they_are_installed() {
        let toolkit = |root: &str| {
            [format!("{root}/lib64/libnvrtc.so.12"), format!("{root}/{HEADER}"), format!("{root}/{MMA}")]
        };
        for root in ["usr/local/cuda", "usr/local/cuda-12.8", "opt/cuda", "usr/lib/cuda", "conda"] {
            let files = toolkit(root);
            let machine = Machine::of(&files.each_ref().map(String::as_str)).set("CONDA_PREFIX", "conda");
            machine.finds(&files[0], root);
        }
        // The newest of several, by number.
        let files = [toolkit("usr/local/cuda-12.8"), toolkit("usr/local/cuda-12.10")].concat();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        Machine::of(&files).finds("usr/local/cuda-12.10/lib64/libnvrtc.so.12", "usr/local/cuda-12.10");
        // One that somebody names wins, and its compiler comes before the loader's.
        let named = Machine::of(&files).set("CUDA_PATH", "usr/local/cuda-12.8");
        named.finds("usr/local/cuda-12.8/lib64/libnvrtc.so.12", "usr/local/cuda-12.8");
        assert_eq!((named.find().named.len(), named.find().others.len()), (1, 2));
    }

    #[test]
    fn the_folder_of_nvcc_is_a_toolkit_through_links() {
        let files =
            ["sdk/bin/nvcc", "sdk/targets/x86_64-linux/lib/libnvrtc.so", "sdk/include/cuda_runtime.h"];
        let machine = Machine::of(&files).set("PATH", "bin");
        fs::create_dir(machine.path("bin")).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(machine.path("sdk/bin/nvcc"), machine.path("bin/nvcc")).unwrap();
        if cfg!(all(unix, target_arch = "x86_64")) {
            machine.finds(files[1], "sdk");
        }
    }

    #[test]
    fn packages_of_pip_are_found_in_a_virtual_environment() {
        let nvidia = "venv/lib/python3.12/site-packages/nvidia";
        let of_13 = [format!("{nvidia}/cu13/lib/libnvrtc.so.13"), format!("{nvidia}/cu13/{HEADER}")];
        let machine = Machine::of(&of_13.each_ref().map(String::as_str)).set("VIRTUAL_ENV", "venv");
        machine.finds(&of_13[0], &format!("{nvidia}/cu13"));
        assert_eq!(machine.find().headers.map(|(_, tensor_cores)| tensor_cores), Some(false));
        let of_12 = [
            format!("{nvidia}/cuda_nvrtc/lib/libnvrtc.so.12"),
            format!("{nvidia}/cuda_runtime/include/cuda_runtime.h"),
        ];
        let machine = Machine::of(&of_12.each_ref().map(String::as_str)).set("VIRTUAL_ENV", "venv");
        machine.finds(&of_12[0], &format!("{nvidia}/cuda_runtime"));
    }

    #[test]
    fn headers_for_tensor_cores_are_preferred_but_for_those_that_are_named() {
        let files = [
            "usr/local/cuda/include/cuda_runtime.h",
            "opt/cuda/include/cuda_runtime.h",
            "opt/cuda/include/crt/mma.h",
        ];
        let machine = Machine::of(&files);
        assert_eq!(machine.find().headers, Some((machine.path("opt/cuda"), true)));
        let machine = Machine::of(&files).set("CUDA_HOME", "usr/local/cuda");
        assert_eq!(machine.find().headers, Some((machine.path("usr/local/cuda"), false)));
    }
}
