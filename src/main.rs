//! The `diffmas` program.

mod cli;

/// Burn's CPU backend allocates every result anew; a caching allocator saves it the trip to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
