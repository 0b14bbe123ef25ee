//! A library under a name that it does not have.
//!
//! cudarc asks the loader for NVRTC by names such as `libnvrtc.so`; the loader knows folders that were set before the program started, and the
//! names that loaded libraries give themselves. Where NVRTC lies elsewhere, or calls itself `libnvrtc.so.13`, a library of nothing but a
//! name and a reference to the file is loaded before: symbols that are looked up in it are those of the file.

/// Sizes of parts of a 64-bit ELF file (System V ABI): its header, a program header, an entry of the dynamic section, a symbol.
const HEADER: u64 = 64;
const PROGRAM: u64 = 56;
const ENTRY: u64 = 16;
const SYMBOL: u64 = 24;

/// The largest page of the machines that CUDA runs on.
const PAGE: u64 = 0x10000;

/// Where the parts lie: three program headers, eight entries, a hash table of one bucket, one symbol, names.
const DYNAMIC: u64 = HEADER + 3 * PROGRAM;
const HASH: u64 = DYNAMIC + 8 * ENTRY;
const SYMBOLS: u64 = HASH + 16;
const STRINGS: u64 = SYMBOLS + SYMBOL;

/// The machine's number in an ELF file; none where CUDA does not run.
pub const MACHINE: Option<u16> = match () {
    _ if cfg!(all(target_os = "linux", target_arch = "x86_64")) => Some(62),
    _ if cfg!(all(target_os = "linux", target_arch = "aarch64")) => Some(183),
    _ => None,
};

/// The bytes of a library that calls itself `name` and needs the one at the path `needed`.
pub fn library(machine: u16, name: &str, needed: &str) -> Vec<u8> {
    let strings = format!("\0{name}\0{needed}\0");
    let needed_at = name.len() as u64 + 2;
    let end = STRINGS + strings.len() as u64;
    let mut file = Vec::new();
    let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
    // 64 bits, little-endian; a shared object (3); sections are none.
    put(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    put(&words16(&[3, machine]));
    put(&1_u32.to_le_bytes());
    put(&words64(&[0, HEADER, 0]));
    put(&0_u32.to_le_bytes());
    put(&words16(&[HEADER as u16, PROGRAM as u16, 3, 64, 0, 0]));
    // All of it is loaded (1), to be read and written (6); the dynamic section (2); a stack that is not executable.
    for (kind, from, to, align) in [(1, 0, end, PAGE), (2, DYNAMIC, HASH, 8), (0x6474_e551, 0, 0, 16)] {
        put(&u32::to_le_bytes(kind));
        put(&6_u32.to_le_bytes());
        put(&words64(&[from, from, from, to - from, to - from, align]));
    }
    // NEEDED, SONAME, HASH, STRTAB, SYMTAB, STRSZ, SYMENT, NULL
    put(&words64(&[1, needed_at, 14, 1, 4, HASH, 5, STRINGS, 6, SYMBOLS]));
    put(&words64(&[10, strings.len() as u64, 11, SYMBOL, 0, 0]));
    // One bucket and one symbol, the empty one.
    put(&words64(&[1 | 1 << 32, 0]));
    put(&[0; SYMBOL as usize]);
    put(strings.as_bytes());
    file
}

fn words16(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words64(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use libloading::Library;

    #[test]
    fn the_loader_finds_a_library_by_a_name_that_it_does_not_have() {
        let machine = MACHINE.expect("tests run where CUDA does");
        let dir = tempfile::tempdir().unwrap();
        let shim = dir.path().join("shim");
        // A library that is loaded anyway, under its path.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps.split_whitespace().find(|part| part.contains("/libc.so")).unwrap();
        // SAFETY: libraries without code that runs when they are loaded, and one that is loaded already.
        unsafe {
            assert!(Library::new("libdiffmas-test.so").is_err());
            std::fs::write(&shim, library(machine, "libdiffmas-test.so", libc)).unwrap();
            let _loaded = Library::new(&shim).unwrap();
            std::fs::remove_file(&shim).unwrap();
            let found = Library::new("libdiffmas-test.so").unwrap();
            found.get::<unsafe extern "C" fn()>(b"getpid").unwrap();
        }
    }
}
